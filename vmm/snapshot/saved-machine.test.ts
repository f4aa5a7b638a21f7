/** A machine's devices on the real in-process core, saved to a folder and loaded into another machine, without KVM. */
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { PciHost } from '../../devices/pci/host-bridge.js';
import { CoreCards } from '../../devices/testcard/testing/core-cards.js';
import { fakeEnvironment } from '../../devices/testing/fake-ports.js';
import { VfioPciFunctions } from '../../devices/vfio-pci/functions.js';
import { SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { decodeSections, encodeSections, SectionReader } from '../../sys/state-sections.js';
import { openFds } from '../../sys/testing/open-fds.js';
import type { PciFunctionState } from '../../vfio/assign/index.js';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_STATE_RUNNING,
} from '../../vfio/feature.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { ConfigError } from '../config-error.js';
import { InputFileError } from '../input-file.js';
import { createPlatform } from '../linux/platform.js';
import type { SavedPart } from '../saved-part.js';
import { Snapshot, writeSnapshot } from './folder.js';
import { Restoring } from './restore.js';
import { type SavedDevice, SavedMachine } from './saved-machine.js';
import { Saver } from './saver.js';

const FUZZ = Number(process.env.TSVISOR_SAVED_MUTATIONS ?? 10_000);
const PAGE = 4096;

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'saved-'));
  path = join(folder, 'machine');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const stateOf = (file: DeviceFile) =>
  file.deviceFeature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET).deviceState;

/** Two cards and a PC's devices: all of a machine but what KVM has. */
function createMachine(scope: Scope, slots: readonly number[] = [3, 4]) {
  const cards = scope.own(new CoreCards());
  const environment = fakeEnvironment();
  const functions = new VfioPciFunctions(environment);
  const opened = slots.map((slot) => {
    const card = cards.open({ reset: 'flr' });
    const name = `00:0${slot}.0 testcard`;
    const pciFunction = scope.own(functions.open(name, card.file, { routeIntx: () => 16 }));
    const device: SavedDevice = {
      ...{ slot, function: 0, name },
      assigned: { file: card.file, function: pciFunction },
    };
    return { card, device, pciFunction };
  });
  const nothing = () => {};
  const platform = createPlatform({
    nowNs: () => 5n,
    nowMs: () => 1_790_000_000_000,
    ...{ irqLine: nothing, powerOff: nothing, reset: nothing, eject: nothing, report: nothing },
  });
  const pci = PciHost.create();
  const host: SavedPart = { name: 'pci host', save: () => pci.save(), load: (state) => pci.load(state) };
  const ram = scope.own(Mapping.anonymous(64 * PAGE));
  const saved = new SavedMachine({
    machine: () => ({
      vCPUs: '1',
      ...Object.fromEntries(slots.map((slot) => [`device 00:0${slot}.0`, 'testcard'])),
    }),
    processors: {
      save: () => [{ name: 'vcpu 0/regs', version: 1, data: Uint8Array.of(1, 2, 3) }],
      load: (state) => void state.take('vcpu 0/regs', 1, 3),
    },
    parts: [host, ...platform.saved],
    devices: { list: opened.map(({ device }) => device) },
    awaited: () => [],
  });
  const config = { memory: `${64 * PAGE}`, devices: [] };
  return { opened, pci, ram, saved, saver: new Saver({ machine: saved, config: () => config, ram }) };
}

const select = (pci: PciHost, address: number) =>
  pci.ports.write(0, new Uint8Array(Uint32Array.of(address).buffer));

test('the devices of a machine go on in another machine, which has its memory', () => {
  using scope = new Scope();
  const [one, other] = [createMachine(scope), createMachine(scope)];
  for (const [i, { card, pciFunction }] of one.opened.entries()) {
    pciFunction.configWrite(0x10, 4, 0xe000_0000 + i * 0x10_0000);
    pciFunction.configWrite(0x04, 2, 0x406);
    card.scratch = 7 + i;
    expect(card.scratch).toBe(7 + i);
  }
  select(one.pci, 0x8000_1804);
  one.ram.view.slice(5 * PAGE, 3).set([1, 2, 3]);
  const info = one.saver.save(path);
  expect(info).toMatchObject({ folder: path, memoryBytes: PAGE });
  for (const { card } of one.opened) expect(stateOf(card.file)).toBe(VFIO_DEVICE_STATE_RUNNING);
  {
    using snapshot = Snapshot.open(path);
    other.saved.load(new SectionReader(snapshot.sections, path));
    other.saved.start();
    expect(snapshot.config).toEqual({ memory: `${64 * PAGE}`, devices: [] });
  }
  for (const [i, { card, pciFunction }] of other.opened.entries()) {
    expect([stateOf(card.file), card.scratch]).toEqual([VFIO_DEVICE_STATE_RUNNING, 7 + i]);
    expect(pciFunction.configRead(0x04, 2)).toBe(0x406);
    expect(pciFunction.configRead(0x10, 4)).toBe(one.opened[i]?.pciFunction.configRead(0x10, 4));
  }
  expect(other.pci.save()).toEqual(one.pci.save());
  expect([...readFileSync(join(path, 'memory')).subarray(5 * PAGE, 5 * PAGE + 4)]).toEqual([1, 2, 3, 0]);
});

test('memory is private to each machine that has it, and copied for those that share it with other processes', async () => {
  using scope = new Scope();
  const { ram, saver } = createMachine(scope, []);
  ram.view.slice(63 * PAGE, 2).set([8, 9]);
  saver.save(path);
  const before = readFileSync(join(path, 'memory'));
  for (const isShared of [false, true]) {
    using restoring = Restoring.open(path, {});
    await using memory = restoring.memory(isShared, undefined);
    expect(memory?.handle.fd === undefined).toBe(!isShared);
    const bytes = Mapping.borrow(memory?.handle ?? { address: 0, bytes: 0 });
    expect([...bytes.view.slice(63 * PAGE, 3)]).toEqual([8, 9, 0]);
    bytes.view.slice(0, 4).fill(0xff);
    bytes[Symbol.dispose]();
  }
  expect(readFileSync(join(path, 'memory')).equals(before)).toBe(true);
});

describe('a save that fails', () => {
  test('names every device that cannot be saved before anything is written, and stops none', () => {
    using scope = new Scope();
    const { opened, saver, saved } = createMachine(scope, [3, 4, 5]);
    const unable = opened.slice(1);
    for (const { card } of unable) {
      const { deviceFeature } = card.file;
      Object.assign(card.file, {
        deviceFeature(flags: number, ...rest: []) {
          if ((flags & 0xffff) === 1)
            throw new SysError({ call: 'VFIO_DEVICE_FEATURE', target: 'card', errno: 25 });
          return deviceFeature.call(this, flags, ...rest);
        },
      });
    }
    expect(() => saver.save(path)).toThrowError(
      /snapshot on 00:04.0 testcard, 00:05.0 testcard: ENOTSUP\n.*00:04.0 testcard: it has no migration.*00:05.0.*detach it first, or have it done/,
    );
    expect(() => saved.check('move')).toThrowError(/^move on .*ENOTSUP\n.*: detach it first$/);
    expect(readdirSync(folder)).toEqual([]);
    for (const { card } of opened.slice(0, 1)) expect(stateOf(card.file)).toBe(VFIO_DEVICE_STATE_RUNNING);
  });

  test('names a device whose guest has enabled virtual functions', () => {
    using scope = new Scope();
    const { opened, saver } = createMachine(scope);
    for (const { pciFunction } of opened.slice(1)) {
      const own = pciFunction.inspect?.() as PciFunctionState;
      Object.assign(pciFunction, {
        inspect: () => ({ ...own, virtualFunctions: [{ ...own, name: 'VF 0' }] }),
      });
    }
    expect(() => saver.save(path)).toThrowError(
      /snapshot on 00:04.0 testcard: ENOTSUP\n.*1 virtual functions, which cannot be saved/,
    );
  });

  test('leaves the folder that was there, and its devices run', () => {
    using scope = new Scope();
    const { opened, saver, saved, ram } = createMachine(scope);
    saver.save(path);
    const before = readFileSync(join(path, 'state'));
    const broken = new Saver({
      machine: saved,
      config: () => {
        throw new RangeError('no configuration');
      },
      ram,
    });
    expect(() => broken.save(path)).toThrowError('no configuration');
    expect(readdirSync(folder)).toEqual(['machine']);
    expect(readFileSync(join(path, 'state')).equals(before)).toBe(true);
    for (const { card } of opened) expect(stateOf(card.file)).toBe(VFIO_DEVICE_STATE_RUNNING);
    expect(() => saver.save(join(folder, 'nowhere', 'machine'))).toThrowError(/mkdir on .*nowhere.*: ENOENT/);
    expect(() => saver.save('machine')).toThrowError(/snapshot on 'machine': EINVAL\n.*absolute path/);
  });

  test('while the memory is written leaves nothing', () => {
    const notMemory = {
      bytes: PAGE,
      slice: () => {
        throw new RangeError('unmapped');
      },
    };
    expect(() => writeSnapshot(path, {}, [], notMemory as never)).toThrowError('unmapped');
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('a folder that is no saved machine is refused with what is wrong, and nothing stays open', () => {
  const cases: readonly (readonly [string, () => void, RegExp])[] = [
    ['no folder', () => rmSync(path, { recursive: true }), /open on .*machine: ENOENT/],
    ['no configuration', () => rmSync(join(path, 'config.json')), /there is no file .*machine\/config.json/],
    ['no JSON', () => writeFileSync(join(path, 'config.json'), '{'), /machine\/config.json is not JSON/],
    ['no state', () => rmSync(join(path, 'state')), /there is no file .*machine\/state/],
    [
      'a state of something else',
      () => writeFileSync(join(path, 'state'), 'x'),
      /load on .*state: EINVAL.*\n.*no saved state/,
    ],
    ['no memory', () => rmSync(join(path, 'memory')), /open on .*machine\/memory: ENOENT/],
    [
      'less memory',
      () => truncateSync(join(path, 'memory'), PAGE),
      /memory: EINVAL\n.*it has 4096 bytes, and the machine 262144/,
    ],
    [
      'another configuration',
      () => writeFileSync(join(path, 'config.json'), '{"memory":"1M","vcpu":2}'),
      /configuration is not valid/,
    ],
    [
      'a sandbox',
      () => writeFileSync(join(path, 'config.json'), '{"memory":262144,"sandbox":"on"}'),
      /restored has none/,
    ],
  ];
  test.each(cases)('%s', (_name, damage, message) => {
    {
      using scope = new Scope();
      createMachine(scope, []).saver.save(path);
    }
    damage();
    const before = openFds().length;
    expect(() => Restoring.open(path, {})).toThrowError(message);
    expect(openFds()).toHaveLength(before);
    expect(existsSync(folder)).toBe(true);
  });
});

test('a state of another machine names the section and what differs', () => {
  using scope = new Scope();
  const one = createMachine(scope);
  let state: Uint8Array = new Uint8Array(0);
  one.saved.save((sections) => {
    state = encodeSections(sections);
  });
  const load = (machine: ReturnType<typeof createMachine>, bytes = state) =>
    machine.saved.load(new SectionReader(decodeSections(bytes, 'a file'), 'a file'));
  expect(() => load(createMachine(scope, [3]))).toThrowError(
    /EINVAL\n.*section 'machine': device 00:04.0: it was saved with testcard, and this machine has none/,
  );
  const changed = (name: string, version: number, data?: Uint8Array) =>
    encodeSections(
      decodeSections(state, 'a file').map((each) =>
        each.name === name ? { name, version, data: data ?? each.data } : each,
      ),
    );
  const expectRefusal = (bytes: Uint8Array, message: RegExp) =>
    expect(() => load(createMachine(scope), bytes)).toThrowError(message);
  expectRefusal(changed('machine', 1, Buffer.from('[1]')), /'machine': describes no machine/);
  expectRefusal(changed('platform/rtc', 2), /ENOTSUP\n.*section 'platform\/rtc' is version 2/);
  expectRefusal(
    changed('platform/rtc', 1, new Uint8Array(1)),
    /'platform\/rtc': 1 bytes that are no state of it/,
  );
  expectRefusal(
    changed('pci 03.0/device', 1, new Uint8Array(9)),
    /EINVAL\n.*section 'pci 03.0\/device' of a file/,
  );
  expectRefusal(
    changed('pci 04.0/function', 1, new Uint8Array(2)),
    /'pci 04.0\/function': 2 bytes are no function/,
  );
  const more = [...decodeSections(state, 'a file'), { name: 'sound', version: 1, data: new Uint8Array(1) }];
  expectRefusal(encodeSections(more), /ENOTSUP\n.*nothing here takes section 'sound'/);
});

test(`${FUZZ} damaged state files are an error each, or load: the file's sections, and their contents`, () => {
  using scope = new Scope();
  const one = createMachine(scope, [3]);
  let sections = [] as ReturnType<typeof decodeSections>;
  one.saved.save((given) => {
    sections = decodeSections(encodeSections(given), 'a file');
  });
  const whole = encodeSections(sections);
  const target = createMachine(scope, [3]);
  const attempt = (bytes: Uint8Array): boolean => {
    try {
      target.saved.load(new SectionReader(decodeSections(bytes, 'a file'), 'a file'));
      target.saved.start();
      return true;
    } catch (error) {
      const isClear = [SysError, ConfigError, InputFileError].some((type) => error instanceof type);
      if (!isClear) throw error;
      expect((error as Error).message).toMatch(/a file|section|testcard/);
      return false;
    }
  };
  expect(attempt(whole)).toBe(true);
  const fds = openFds().length;
  // The file as it lies on a disk: checksums find what is damaged.
  fc.assert(
    fc.property(
      fc.nat(whole.length - 1),
      fc.integer({ min: 1, max: 255 }),
      fc.boolean(),
      (at, flip, isCut) => {
        const copy = Uint8Array.from(isCut ? whole.subarray(0, at) : whole);
        if (!isCut) copy[at] = (copy[at] as number) ^ flip;
        expect(attempt(copy)).toBe(false);
      },
    ),
    { numRuns: Math.floor(FUZZ / 2) },
  );
  // Sections of an adversary, whose checksums are right.
  fc.assert(
    fc.property(
      fc.nat(sections.length - 1),
      fc.array(fc.record({ at: fc.nat(), byte: fc.nat(255) }), { minLength: 1, maxLength: 6 }),
      fc.nat(20),
      (which, changes, cut) => {
        const changed = sections.map((each, i) => {
          if (i !== which) return each;
          const data = Uint8Array.from(each.data);
          for (const { at, byte } of changes) if (data.length > 0) data[at % data.length] = byte;
          return { ...each, data: data.subarray(0, Math.max(0, data.length - (cut > 15 ? cut : 0))) };
        });
        attempt(encodeSections(changed));
      },
    ),
    { numRuns: Math.ceil(FUZZ / 2) },
  );
  expect(openFds()).toHaveLength(fds);
  expect(attempt(whole)).toBe(true);
}, 120_000);

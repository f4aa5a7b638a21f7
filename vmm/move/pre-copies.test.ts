/** Machines with real cards of the in-process core that move: devices with PRE_COPY and P2P, without KVM. */
import { duplexPair } from 'node:stream';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CoreCards } from '../../devices/testcard/testing/core-cards.js';
import { fakeEnvironment } from '../../devices/testing/fake-ports.js';
import { VfioPciFunctions } from '../../devices/vfio-pci/functions.js';
import { gpa } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { SectionReader } from '../../sys/state-sections.js';
import { quiesceDevice, startDevice } from '../../vfio/assign/index.js';
import {
  type FeatureInput,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../vfio/feature.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { MemoryMap } from '../assign/memory-map.js';
import { placeOf, type SavedDevice, SavedMachine } from '../snapshot/saved-machine.js';
import { ArrivingDevices } from './arriving-devices.js';
import { FrameStream } from './frames.js';
import { Mover } from './mover.js';
import { PAGE_BYTES } from './pages.js';
import { takePaused } from './paused-section.js';
import { PreCopies } from './pre-copies.js';
import { type MoveOptions, moveMachine } from './source.js';
import { receiveMachine } from './target.js';

const SEED = Number(process.env.TSVISOR_PRECOPY_SEED ?? Date.now() % 2 ** 31);
const RAM_PAGES = 20;
const BAR2 = 256 << 10;
const STATE = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
const stateOf = (file: DeviceFile) => file.deviceFeature(STATE | VFIO_DEVICE_FEATURE_GET).deviceState;

/** A device that tells which states its user sets, in one list for all. */
function noting(file: DeviceFile, name: string, told: string[]): DeviceFile {
  return new Proxy(file, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        const result: unknown = Reflect.apply(value, target, args);
        if (key === 'deviceFeature' && args[0] === (STATE | VFIO_DEVICE_FEATURE_SET))
          told.push(`${name} ${(args[1] as FeatureInput).deviceState}`);
        return result;
      };
    },
  });
}

/** A machine with a card for each value of `migration=`, from slot 3 on. */
function createMachine(scope: Scope, migrations: readonly string[]) {
  const cards = scope.own(new CoreCards());
  const functions = new VfioPciFunctions(fakeEnvironment());
  const told: string[] = [];
  const list = migrations.map((migration, i): SavedDevice & { readonly memory: Uint8Array } => {
    const { file } = cards.open({ reset: 'flr', ram: '256K', migration });
    const name = `00:0${3 + i}.0 testcard`;
    const pciFunction = scope.own(functions.open(name, file, { routeIntx: () => 16 }));
    const mapped = scope.own(file.mmap(file.getRegionInfo(2).offset, BAR2));
    const assigned = { file: noting(file, `card ${i}`, told), function: pciFunction };
    return { slot: 3 + i, function: 0, name, assigned, memory: mapped.view.slice(0, BAR2) };
  });
  const saved = new SavedMachine({
    machine: () => ({ vCPUs: '1' }),
    processors: { save: () => [], load: () => {} },
    ...{ parts: [], devices: { list }, awaited: () => [] },
  });
  const ram = scope.own(Mapping.anonymous(RAM_PAGES * PAGE_BYTES));
  const slot = { setLogged: () => {}, getDirtyLog: () => new Uint8Array(8), [Symbol.dispose]: () => {} };
  const memory = scope.own(new MemoryMap({ add: () => slot }));
  memory.addRam(gpa(0n), ram);
  const mover = new Mover({
    ...{ machine: saved, memory, config: () => ({}), ramBytes: ram.bytes },
    devices: () =>
      list.map((device) => ({ name: device.name, place: placeOf(device), file: device.assigned.file })),
  });
  const arriving = scope.own(new ArrivingDevices({ list }));
  told.splice(0);
  return {
    list,
    saved,
    ram,
    mover,
    arriving,
    told,
    states: () => list.map(({ assigned }) => stateOf(assigned.file)),
  };
}

type TestMachine = ReturnType<typeof createMachine>;

/** Moves a machine. @param between is called after each round, as the guest that runs meanwhile */
async function move(from: TestMachine, to: TestMachine, options: MoveOptions, between = () => {}) {
  const [here, there] = duplexPair();
  const result = await Promise.allSettled([
    moveMachine(
      {
        memory: from.ram.view,
        begin: async () => from.mover.begin(),
        look: async () => {
          between();
          return from.mover.look();
        },
        piece: async () => from.mover.piece(),
        stop: async () => from.mover.stop(false),
        abort: async () => from.mover.abort(),
        doubt: async () => from.mover.doubt(),
        finish: async () => {},
      },
      new FrameStream(here, 'there', 2000),
      options,
    ),
    receiveMachine(new FrameStream(there, 'here', 2000), async () => ({
      memory: to.ram.view,
      device: async (piece) => to.arriving.take(piece),
      load: async (sections) =>
        to.saved.load(new SectionReader(takePaused(sections).rest, 'it'), to.arriving),
      takeOver: async () => to.saved.start(),
    })),
  ]);
  for (const stream of [here, there]) stream.destroy();
  return result.map((each) => (each.status === 'rejected' ? (each.reason as Error).message : undefined));
}

const ALL = ['stop-copy', 'all', 'p2p', 'pre-copy'] as const;

test(`whatever a guest writes to its cards while it moves, they are the same there (seed ${SEED})`, async () => {
  const write = fc.record({
    card: fc.nat(3),
    at: fc.nat(BAR2 - 1),
    data: fc.uint8Array({ minLength: 1, maxLength: 9000 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(write, { maxLength: 6 }), { maxLength: 4 }), async (rounds) => {
      using scope = new Scope();
      const [from, to] = [createMachine(scope, ALL), createMachine(scope, ALL)];
      const left = [...rounds];
      const act = () => {
        for (const { card, at, data } of left.shift() ?? [])
          from.list[card]?.memory.set(data.subarray(0, BAR2 - at), at);
      };
      act();
      expect(await move(from, to, { downtimeMs: 60_000 }, act)).toEqual([undefined, undefined]);
      for (const [i, { memory }] of from.list.entries())
        expect(Buffer.compare(memory, to.list[i]?.memory ?? new Uint8Array(0)), `card ${i}`).toBe(0);
      expect(to.states()).toEqual(ALL.map(() => VFIO_DEVICE_STATE_RUNNING));
      from.mover.abort();
      expect(from.states()).toEqual(ALL.map(() => VFIO_DEVICE_STATE_RUNNING));
    }),
    { seed: SEED, numRuns: 25 },
  );
});

test('all devices with P2P are quiet before one stops, and before one goes on; a snapshot does the same, without PRE_COPY', async () => {
  using scope = new Scope();
  const [from, to] = [createMachine(scope, ALL), createMachine(scope, ALL)];
  expect(await move(from, to, { downtimeMs: 60_000 })).toEqual([undefined, undefined]);
  const [quiet, still] = [VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP];
  const [pre, prequiet, copy] = [
    VFIO_DEVICE_STATE_PRE_COPY,
    VFIO_DEVICE_STATE_PRE_COPY_P2P,
    VFIO_DEVICE_STATE_STOP_COPY,
  ];
  expect(from.told.slice(0, 8)).toEqual([
    ...[`card 1 ${pre}`, `card 3 ${pre}`, `card 1 ${prequiet}`, `card 2 ${quiet}`],
    ...[`card 0 ${still}`, `card 1 ${copy}`, `card 2 ${still}`, `card 3 ${copy}`],
  ]);
  expect(to.told.slice(-6)).toEqual([
    ...[`card 1 ${quiet}`, `card 2 ${quiet}`],
    ...ALL.map((_, i) => `card ${i} ${VFIO_DEVICE_STATE_RUNNING}`),
  ]);
  to.told.splice(0);
  to.saved.save((sections) => sections);
  expect(to.told.slice(0, 6)).toEqual([
    ...[`card 1 ${quiet}`, `card 2 ${quiet}`],
    ...ALL.map((_, i) => `card ${i} ${still}`),
  ]);
  expect(to.told.slice(-6)).toEqual([
    ...[`card 1 ${quiet}`, `card 2 ${quiet}`],
    ...ALL.map((_, i) => `card ${i} ${VFIO_DEVICE_STATE_RUNNING}`),
  ]);
  expect(to.told).not.toContain(`card 1 ${pre}`);
});

test('a move that is aborted in any round, or at its stop, leaves all devices running', async () => {
  for (const moment of [0, 1, 2, 3]) {
    using scope = new Scope();
    const [from, to] = [createMachine(scope, ALL), createMachine(scope, ALL)];
    const controller = new AbortController();
    let count = 0;
    const progress = () => {
      if (count++ === moment) controller.abort(new Error('no'));
    };
    const [sent, received] = await move(
      from,
      to,
      { downtimeMs: 0, signal: controller.signal, progress },
      () => {
        for (const { memory } of from.list) memory.fill(count + 1, 0, 70_000);
      },
    );
    expect([sent, received?.split('\n')[0]], `moment ${moment}`).toEqual(['no', 'move on here: EPROTO']);
    expect(from.states(), `moment ${moment}`).toEqual(ALL.map(() => VFIO_DEVICE_STATE_RUNNING));
    expect(from.mover.begin().unlogged).toEqual([]); // and can move again
    from.mover.abort();
  }
});

test('a device that is reset while it is copied ends the move, also between the last look and the stop; all run on', async () => {
  for (const when of [1, 2]) {
    using scope = new Scope();
    const [from, to] = [createMachine(scope, ALL), createMachine(scope, ALL)];
    const [, card] = from.list as unknown as [SavedDevice, SavedDevice];
    let looks = 0;
    const machine = Object.assign(from, {});
    const reset = () => {
      if (++looks === when) card.assigned.file.reset();
    };
    const { stop } = machine.mover;
    machine.mover.stop = (isPaused: boolean) => {
      reset();
      return stop.call(machine.mover, isPaused);
    };
    const [sent] = await move(machine, to, { downtimeMs: 60_000 }, reset);
    expect(sent).toMatch(/ENODEV|EINVAL/);
    if (when === 2)
      expect(sent).toMatch(/PRE_COPY on 00:04\.0 testcard: ENODEV\n.*it was reset while it was copied/);
    expect(from.states()).toEqual(ALL.map(() => VFIO_DEVICE_STATE_RUNNING));
  }
});

test('a device that is gone while it is copied ends the move, and the others run on', async () => {
  using scope = new Scope();
  const [from, to] = [createMachine(scope, ALL), createMachine(scope, ALL)];
  const [first, gone, ...others] = from.list as unknown as SavedDevice[];
  let looks = 0;
  const [sent] = await move(from, to, { downtimeMs: 0 }, () => {
    if (++looks === 2) gone?.assigned.file[Symbol.dispose]();
    for (const { memory } of from.list.filter((each) => each !== gone)) memory.fill(looks, 0, 70_000);
  });
  expect(sent).toMatch(/EBADF|ENODEV/);
  for (const device of [first, ...others])
    expect(stateOf(device?.assigned.file as DeviceFile)).toBe(VFIO_DEVICE_STATE_RUNNING);
});

test('devices that are in PRE_COPY when another one cannot enter it run on', () => {
  using scope = new Scope();
  const { list, states } = createMachine(scope, ALL);
  const devices = list.map(({ name, assigned: { file } }) => ({ name, place: name, file }));
  const broken = new Proxy(list[3]?.assigned.file as DeviceFile, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        const result = Reflect.apply(value, target, args) as { data?: { precopyInfo(): never } };
        if (result?.data === undefined) return result;
        result.data.precopyInfo = () => {
          throw new SysError({ call: 'info', target: 'it', errno: errno.EIO });
        };
        return result;
      };
    },
  });
  expect(() =>
    PreCopies.begin(devices.map((each, i) => (i === 3 ? { ...each, file: broken } : each))),
  ).toThrowError(/EIO/);
  expect(states()).toEqual(ALL.map(() => VFIO_DEVICE_STATE_RUNNING));
});

test('a piece of a device that is not there, or of another kind of device, is refused, and the device works after a reset', () => {
  using scope = new Scope();
  const { arriving, list, states } = createMachine(scope, ALL);
  const data = Buffer.from('PRE\x01\x04\0\0\0nope', 'latin1');
  expect(() => arriving.take({ place: 'pci 1f.0', data })).toThrowError(
    /EPROTO\n.*a device at 'pci 1f\.0', where there is none/,
  );
  expect(() => arriving.take({ place: 'pci 04.0', data })).toThrowError(/EINVAL\n.*does not begin as one/);
  expect(states()).toEqual(ALL.map(() => VFIO_DEVICE_STATE_RUNNING)); // it was reset
  const { file } = (list[1] as SavedDevice).assigned;
  quiesceDevice(file);
  expect(stateOf(file)).toBe(VFIO_DEVICE_STATE_RUNNING_P2P);
  startDevice(file);
  expect(arriving.finish('pci 05.0', data)).toBe(false);
});

/** What a machine logs and stops while it moves, on a real card of the in-process core and slots that tests can look into. */
import { expect, test } from 'vitest';
import { CoreCards } from '../../devices/testcard/testing/core-cards.js';
import { gpa } from '../../sys/address.js';
import { SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { decodeSections } from '../../sys/state-sections.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { MemoryMap, type PortSlot } from '../assign/memory-map.js';
import type { StoppedMachine } from '../snapshot/saved-machine.js';
import { Mover } from './mover.js';
import { dirtyRuns, PAGE_BYTES } from './pages.js';
import { PAUSED_SECTION, takePaused } from './paused-section.js';

const PAGES = 200;
/** RAM in two ranges, as on a PC with more than 3 GiB. */
const LOW_PAGES = 70;

/** A slot whose guest a test plays. */
class FakeSlot implements PortSlot {
  isLogged = false;
  readonly written: Uint8Array;
  constructor(pages: number) {
    this.written = new Uint8Array(Math.ceil(pages / 64) * 8);
  }
  setLogged(isLogged: boolean): void {
    this.isLogged = isLogged;
  }
  write(page: number): void {
    if (this.isLogged) this.written[page >> 3] = (this.written[page >> 3] as number) | (1 << (page & 7));
  }
  getDirtyLog(): Uint8Array {
    const taken = this.written.slice();
    this.written.fill(0);
    return taken;
  }
  [Symbol.dispose](): void {}
}

function createMachine(
  scope: Scope,
  files: readonly (readonly [string, Pick<DeviceFile, 'deviceFeature'>])[] = [],
) {
  const slots: FakeSlot[] = [];
  const add = (_gpa: unknown, _hva: unknown, bytes: bigint) => {
    const slot = new FakeSlot(Number(bytes) / PAGE_BYTES);
    slots.push(slot);
    return slot;
  };
  const memory = scope.own(new MemoryMap({ add }));
  const ram = scope.own(Mapping.anonymous(PAGES * PAGE_BYTES));
  const low = BigInt(LOW_PAGES * PAGE_BYTES);
  memory.addRam(gpa(0n), ram, { bytes: low });
  memory.addRam(gpa(1n << 32n), ram, { offset: low });
  const told: string[] = [];
  const machine = {
    failure: undefined as Error | undefined,
    check: (call?: string) => void told.push(`check ${call}`),
    stop: (): StoppedMachine => {
      told.push('stop');
      return {
        sections: () => {
          if (machine.failure !== undefined) throw machine.failure;
          slots[1]?.write(1); // saving may write, too
          return [{ name: 'it', version: 1, data: Uint8Array.of(5) }];
        },
        [Symbol.dispose]: () => void told.push('go on'),
      };
    },
  };
  const mover = new Mover({
    ...{ machine, memory, config: () => ({ memory: 'x' }), ramBytes: ram.bytes },
    devices: () => files.map(([name, file]) => ({ name, place: name, file: file as DeviceFile })),
  });
  const pages = (bitmap: Uint8Array) =>
    [...dirtyRuns(bitmap, ram.bytes, PAGE_BYTES)].map(({ at }) => at / PAGE_BYTES);
  return { mover, slots, told, machine, pages };
}

test('pages are numbered as they lie in memory, whichever range the guest wrote', () => {
  using scope = new Scope();
  const { mover, slots, pages } = createMachine(scope);
  slots[0]?.write(3);
  expect(mover.begin()).toEqual({ config: { memory: 'x' }, unlogged: [] });
  expect(pages(mover.look().dirty)).toEqual([]);
  slots[0]?.write(69);
  slots[1]?.write(0);
  slots[1]?.write(129);
  expect(pages(mover.look().dirty)).toEqual([69, 70, 199]);
  expect(pages(mover.look().dirty)).toEqual([]);
});

test('the stop has the state, and what was written until the end of saving; it says whether the machine was paused', () => {
  using scope = new Scope();
  const { mover, slots, told, pages } = createMachine(scope);
  mover.begin();
  slots[0]?.write(7);
  const { state, dirty } = mover.stop(true);
  expect(pages(dirty)).toEqual([7, 71]);
  const sections = decodeSections(state, 'it');
  expect(sections.map(({ name }) => name)).toEqual(['it', PAUSED_SECTION]);
  const { isPaused, rest } = takePaused(sections);
  expect([isPaused, rest.map(({ name }) => name)]).toEqual([true, ['it']]);
  expect(told).toEqual(['check move', 'check move', 'stop']);
  mover.abort();
  expect(told.at(-1)).toBe('go on');
  expect(slots.map(({ isLogged }) => isLogged)).toEqual([false, false]);
});

test('a stop that fails lets the devices go on, and the move can be aborted and begun again', () => {
  using scope = new Scope();
  const { mover, told, machine } = createMachine(scope);
  mover.begin();
  machine.failure = new RangeError('no state');
  expect(() => mover.stop(false)).toThrowError('no state');
  expect(told.at(-1)).toBe('go on');
  expect(() => mover.begin()).toThrowError(/EBUSY/);
  mover.abort();
  mover.abort();
  expect(told.filter((text) => text === 'go on')).toHaveLength(1);
  expect(mover.begin().unlogged).toEqual([]);
});

test('while it moves, other changes are refused; while it does not, there is nothing to stop', () => {
  using scope = new Scope();
  const { mover } = createMachine(scope);
  expect(() => mover.look()).toThrowError(/ESRCH/);
  expect(() => mover.stop(false)).toThrowError(/ESRCH/);
  mover.refuseWhileMoving('attach');
  mover.begin();
  expect(() => mover.refuseWhileMoving('attach')).toThrowError(/attach on the machine: EBUSY\n.*is moving/);
});

test('a device without a log makes every page one that may be written; one with a log does not', () => {
  using scope = new Scope();
  const cards = scope.own(new CoreCards());
  const card = cards.open({ reset: 'flr' });
  const logging = createMachine(scope, [['card', card.file]]);
  expect(logging.mover.begin().unlogged).toEqual([]);
  expect(logging.pages(logging.mover.look().dirty)).toEqual([]);
  logging.mover.abort();
  const without = {
    deviceFeature() {
      throw new SysError({ call: 'VFIO_DEVICE_FEATURE', target: 'other', errno: 25 });
    },
  };
  const other = createMachine(scope, [
    ['card', card.file],
    ['other', without],
  ]);
  expect(other.mover.begin().unlogged).toEqual(['other']);
  expect(other.pages(other.mover.look().dirty)).toHaveLength(PAGES);
  other.mover.abort();
  expect(logging.mover.begin().unlogged).toEqual([]); // its log was stopped
});

test('memory of a plug-in that cannot tell what is written is refused', () => {
  using scope = new Scope();
  const memory = scope.own(new MemoryMap({ add: () => ({ [Symbol.dispose]: () => {} }) }));
  memory.addRam(gpa(0n), scope.own(Mapping.anonymous(PAGE_BYTES)));
  expect(() => memory.setLogged(true)).toThrowError(/setLogged on guest memory: ENOTSUP\n.*plug-in/);
});

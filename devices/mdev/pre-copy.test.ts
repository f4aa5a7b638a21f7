/** PRE_COPY and P2P of this package's drivers, by the core's state machine: what arrives is what the device had when it stopped. */
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { isErrno } from '../../sys/error.js';
import { deferUnmapping } from '../../sys/mapping.js';
import { setDeviceState } from '../../vfio/core/migration.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';
import {
  type MigrationData,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../vfio/feature.js';
import { REG_SCRATCH } from '../testcard/spec.js';
import { CardBench } from '../testcard/testing/card-bench.js';
import { VgpuDevice } from '../vgpu/device.js';
import { LoadingStream, SavingStream } from './migration-streams.js';
import { PreCopiedMemory, type PreCopy, type SavedPages, writePages } from './pre-copy.js';
import { StateWriter } from './state-fields.js';
import { resumeState, saveState } from './testing/migrate.js';

const PAGE = 4096;
const BYTES = 256 << 10;
/** BAR 2 of a test card, and BAR 0 of a vgpu. */
const BAR: Readonly<Record<string, number>> = { testcard: 2, vgpu: 0 };
const SEED = Number(process.env.TSVISOR_PRECOPY_SEED ?? Date.now() % 2 ** 31);

const open: Disposable[] = [];
afterEach(() => {
  for (const each of open.splice(0).reverse()) each[Symbol.dispose]();
});

/** What happens to a device: its guest writes bytes or a page, or it is read, once or until there is nothing for now. */
interface Step {
  readonly write?: number;
  readonly with?: Uint8Array;
  readonly page?: number;
  readonly fill?: number;
  readonly read?: number;
  readonly all?: boolean;
  readonly p2p?: boolean;
}

/** A device with memory that a guest maps. */
interface Made {
  readonly ops: VfioDeviceOps;
  /** As the guest has it. */
  readonly memory: Uint8Array;
}

function made(
  kind: 'vgpu' | 'testcard',
  bytes = BYTES,
  options: Readonly<Record<string, string>> = {},
): Made {
  const own = <T extends Disposable>(it: T): T => {
    open.push(it);
    return it;
  };
  const ops: VfioDeviceOps =
    kind === 'vgpu'
      ? own(new VgpuDevice({ name: 'vgpu', vramBytes: bytes, xres: 64, yres: 64 }))
      : own(new CardBench({ ram: `${bytes >> 10}K`, migration: 'all', ...options })).ops;
  if (ops instanceof VgpuDevice) {
    ops.openDevice();
    own({ [Symbol.dispose]: () => ops.closeDevice() });
  }
  const { view } = own((ops.mmap as NonNullable<VfioDeviceOps['mmap']>)(BAR[kind] as number, 0, bytes));
  return { ops, memory: view.slice(0, bytes) };
}

/** Reads at most so many bytes; undefined if there is nothing for now. */
function read(data: MigrationData, bytes: number): Uint8Array | undefined {
  const piece = new Uint8Array(bytes);
  try {
    return piece.subarray(0, data.read(piece));
  } catch (error) {
    if (isErrno(error, 'ENOMSG')) return undefined;
    throw error;
  }
}

/** Reads until there is nothing for now, or the end. */
function readAll(data: MigrationData): Buffer {
  const pieces: Uint8Array[] = [];
  for (let piece = read(data, 9999); piece !== undefined && piece.length > 0; piece = read(data, 9999))
    pieces.push(piece);
  return Buffer.concat(pieces);
}

function begin({ ops }: Made): MigrationData {
  const data = setDeviceState(ops, VFIO_DEVICE_STATE_PRE_COPY) as MigrationData;
  open.push(data);
  return data;
}

/** What the device is to its guest: all of its memory, and a whole state of it. */
const seen = ({ ops, memory }: Made) => {
  const state = saveState(ops);
  setDeviceState(ops, VFIO_DEVICE_STATE_RUNNING);
  return { memory: Buffer.from(memory).toString('base64'), state: Buffer.from(state).toString('base64') };
};

describe.each(['vgpu', 'testcard'] as const)('a %s', (kind) => {
  test(`whatever is written while it is pre-copied, and however it is read, the other one has its state (seed ${SEED})`, () => {
    const step: fc.Arbitrary<Step> = fc.oneof(
      fc.record({ write: fc.nat(BYTES - 1), with: fc.uint8Array({ minLength: 1, maxLength: 40 }) }),
      fc.record({ page: fc.nat(BYTES / PAGE - 1), fill: fc.nat(255) }),
      fc.record({ read: fc.integer({ min: 1, max: 200_000 }) }),
      fc.constant({ all: true }),
      fc.record({ p2p: fc.boolean() }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), fc.array(step, { maxLength: 6 }), (steps, before) => {
        const [from, to] = [made(kind), made(kind)];
        const hasP2p = ((from.ops.migration?.flags ?? 0) & VFIO_MIGRATION_P2P) !== 0;
        const stream: Uint8Array[] = [];
        let data: MigrationData | undefined;
        const act = (each: Step) => {
          if (each.write !== undefined)
            from.memory.set((each.with ?? []).slice(0, BYTES - each.write), each.write);
          if (each.page !== undefined)
            from.memory.fill(each.fill ?? 0, each.page * PAGE, (each.page + 1) * PAGE);
          if (data === undefined) return;
          if (each.read !== undefined) stream.push(read(data, each.read) ?? new Uint8Array(0));
          if (each.all === true) stream.push(readAll(data));
          if (each.p2p === undefined || !hasP2p) return;
          const state = each.p2p ? VFIO_DEVICE_STATE_PRE_COPY_P2P : VFIO_DEVICE_STATE_PRE_COPY;
          expect(setDeviceState(from.ops, state)).toBeUndefined();
        };
        to.memory.fill(0x5a, 7, 9000);
        before.forEach(act);
        data = begin(from);
        steps.forEach(act);
        expect(setDeviceState(from.ops, VFIO_DEVICE_STATE_STOP_COPY)).toBeUndefined();
        stream.push(readAll(data));
        expect(read(data, 1)).toHaveLength(0);
        setDeviceState(from.ops, VFIO_DEVICE_STATE_RUNNING);
        expect(resumeState(to.ops, Buffer.concat(stream))).toBe('ok');
        expect(seen(to)).toEqual(seen(from));
        for (const each of open.splice(0).reverse()) each[Symbol.dispose]();
      }),
      { seed: SEED, numRuns: Number(process.env.TSVISOR_PRECOPY_RUNS ?? 60) },
    );
  });

  test('what was copied is not copied again at the stop, and its info says what is left', () => {
    const from = made(kind);
    from.memory.fill(1);
    const data = begin(from);
    const { initialBytes, dirtyBytes } = data.precopyInfo();
    expect([Number(initialBytes) > BYTES, dirtyBytes]).toEqual([true, 0n]);
    expect(readAll(data).length).toBeGreaterThan(BYTES);
    expect(data.precopyInfo()).toEqual({ initialBytes: 0n, dirtyBytes: 0n });
    expect(read(data, 10)).toBeUndefined();
    from.memory[5 * PAGE + 3] = 9;
    const again = data.precopyInfo();
    expect([
      again.initialBytes,
      Number(again.dirtyBytes) >= PAGE,
      Number(again.dirtyBytes) < 2 * PAGE,
    ]).toEqual([0n, true, true]);
    const estimate = Number(from.ops.migration?.getDataSize());
    setDeviceState(from.ops, VFIO_DEVICE_STATE_STOP_COPY);
    const rest = readAll(data);
    expect(rest).toHaveLength(estimate);
    expect(rest.length).toBeLessThan(kind === 'vgpu' ? 3 * PAGE : BYTES / 2 + 2 * PAGE);
    expect(() => data.precopyInfo()).toThrowError(/EINVAL/);
  });

  test('a device that was pre-copied to no end runs on, its stream has ended, and it can be saved', () => {
    const from = made(kind);
    from.memory.fill(3, 100, 20_000);
    const whole = seen(from);
    for (let i = 0; i < 3; i++) {
      const data = begin(from);
      read(data, 5000);
      setDeviceState(from.ops, VFIO_DEVICE_STATE_RUNNING);
      expect(() => data.read(new Uint8Array(8))).toThrowError(/ENODEV/);
      expect(() => data.precopyInfo()).toThrowError(/EINVAL/);
    }
    expect(seen(from)).toEqual(whole);
    const data = begin(from);
    from.ops.reset?.();
    expect(from.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
    expect(() => data.read(new Uint8Array(8))).toThrowError(/ENODEV/);
    expect(() => data.write(new Uint8Array(8))).toThrowError(/EBADF/);
  });

  test(`of 300 streams with wrong bytes (seed ${SEED}), each is refused or is one that a guest could have made, and a reset gets it back`, () => {
    const from = made(kind);
    from.memory.fill(7, 0, 10 * PAGE);
    const data = begin(from);
    const pieces = readAll(data);
    from.memory.fill(8, 3 * PAGE, 5 * PAGE);
    setDeviceState(from.ops, VFIO_DEVICE_STATE_STOP_COPY);
    const good = Buffer.concat([pieces, readAll(data)]);
    const [to, zeros] = [made(kind), Buffer.alloc(BYTES)];
    const change = fc.record({
      at: fc.nat(good.length - 1),
      byte: fc.nat(255),
      cut: fc.nat(good.length),
      bytes: fc.integer({ min: 300, max: 70_000 }),
    });
    fc.assert(
      fc.property(change, fc.boolean(), ({ at, byte, cut, bytes }, isCut) => {
        const wrong = Buffer.from(good);
        // Most bytes are contents of pages: half of the changes are where the lengths are.
        wrong[isCut ? at : at % 32] = byte;
        const stream = isCut ? wrong.subarray(0, cut) : wrong;
        using into = setDeviceState(to.ops, VFIO_DEVICE_STATE_RESUMING);
        try {
          for (let i = 0; i < stream.length; i += bytes) into?.write(stream.subarray(i, i + bytes));
          setDeviceState(to.ops, VFIO_DEVICE_STATE_RUNNING);
        } catch (error) {
          expect(isErrno(error, 'EINVAL') || isErrno(error, 'ENOMEM'), String(error)).toBe(true);
        }
        to.ops.reset?.();
        expect(to.ops.migration?.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
        expect(Buffer.compare(to.memory, zeros)).toBe(0);
      }),
      { seed: SEED, numRuns: 300 },
    );
  });

  test('a piece of another device, one that is too long, and a state without end are refused while they are written', () => {
    const [to, other] = [made(kind), made(kind, 2 * BYTES)];
    const piece = readAll(begin(other));
    const write = (...parts: Uint8Array[]) => {
      to.ops.reset?.();
      using into = setDeviceState(to.ops, VFIO_DEVICE_STATE_RESUMING);
      for (const part of parts) into?.write(part);
      return setDeviceState(to.ops, VFIO_DEVICE_STATE_STOP);
    };
    expect(() => write(piece)).toThrowError(
      /write on .*: EINVAL\n.*its memory is 524288, and this device's is 262144/,
    );
    const long = Buffer.from('PRE\x01\xff\xff\xff\x7f', 'latin1');
    expect(() => write(long)).toThrowError(/EINVAL\n.*a piece of 2147483647 bytes/);
    const endless = Array.from({ length: 8 }, () => new Uint8Array(BYTES));
    expect(() => write(...endless)).toThrowError(/write on .*: ENOMEM/);
    expect(() => write(piece.subarray(0, 11))).toThrowError(/RESUMING to STOP on .*: EINVAL/);
    to.ops.reset?.();
  });

  test('who writes a state in a million pieces, or nothing at all, makes nobody keep a million pieces', () => {
    const to = made(kind);
    using into = setDeviceState(to.ops, VFIO_DEVICE_STATE_RESUMING);
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 1_000_000; i++) into?.write(new Uint8Array(i < BYTES / 2 ? 1 : 0));
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(50 << 20);
    to.ops.reset?.();
  });
});

const [STOP_COPY, P2P, PRE_COPY] = [VFIO_MIGRATION_STOP_COPY, VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY];
test.each([
  ['off', undefined],
  ['stop-copy', STOP_COPY],
  ['p2p', STOP_COPY | P2P],
  ['pre-copy', STOP_COPY | PRE_COPY],
  ['all', STOP_COPY | P2P | PRE_COPY],
] as const)(
  'a test card with migration=%s has VFIO_MIGRATION_ bits %s, and only their states',
  (migration, flags) => {
    const { ops } = made('testcard', BYTES, { migration });
    expect(ops.migration?.flags).toBe(flags);
    if (flags === undefined) return;
    for (const [state, needed] of [
      [VFIO_DEVICE_STATE_RUNNING_P2P, P2P],
      [VFIO_DEVICE_STATE_PRE_COPY, PRE_COPY],
      [VFIO_DEVICE_STATE_PRE_COPY_P2P, P2P | PRE_COPY],
    ] as const) {
      const enter = () => setDeviceState(ops, state)?.[Symbol.dispose]();
      if ((flags & needed) === needed) enter();
      else expect(enter, `state ${state}`).toThrowError(/EINVAL/);
      setDeviceState(ops, VFIO_DEVICE_STATE_RUNNING);
    }
  },
);

test('a state of a device without PRE_COPY is that of one with it', () => {
  const [from, to] = [made('testcard', BYTES, { migration: 'stop-copy' }), made('testcard')];
  from.memory.fill(5, 10, 9000);
  expect(resumeState(to.ops, saveState(from.ops))).toBe('ok');
  setDeviceState(from.ops, VFIO_DEVICE_STATE_RUNNING);
  expect(seen(to)).toEqual(seen(from));
});

/** A memory of 8 MiB, how often it is looked at, and its pieces until there is nothing for now. */
function large() {
  const memory = new Uint8Array(8 << 20);
  let looks = 0;
  const look = () => {
    looks++;
    return memory;
  };
  const saveRest = (pages: SavedPages) => {
    const state = new StateWriter('rest', 1);
    writePages(state, pages);
    return state.finish();
  };
  const preCopy = new PreCopiedMemory({
    ...{ name: 'vram', bytes: memory.length, memory: look, restBytes: 8, saveRest },
    loadRest: () => true,
  });
  open.push({ [Symbol.dispose]: () => preCopy.end() });
  const pieces = () => {
    const lengths: number[] = [];
    for (let piece = preCopy.next(); piece !== undefined; piece = preCopy.next()) lengths.push(piece.length);
    return lengths;
  };
  preCopy.begin();
  return { memory, preCopy, pieces, looks: () => looks };
}

test('no piece looks at more than 2 MiB: those before a page that differs, and after it, are empty', () => {
  const { memory, preCopy, pieces } = large();
  memory[memory.length - 1] = 1;
  const [empty, page] = [16, 16 + 4 + PAGE];
  expect(pieces()).toEqual([empty, empty, empty, page, empty, empty, empty]);
  memory[0] = 1; // 6 MiB on, as it looks on where it was
  const found = pieces();
  expect(found.filter((bytes) => bytes === page)).toHaveLength(1);
  expect(found.length).toBeLessThanOrEqual(8);
  expect(pieces().every((bytes) => bytes === empty)).toBe(true);
  expect(preCopy.left()).toEqual({ initialBytes: 0n, dirtyBytes: 0n });
});

test('its info looks at nothing until the first copy is whole, and then once for both numbers', () => {
  const { memory, preCopy, pieces, looks } = large();
  memory.fill(1, 0, 3 << 20);
  const { initialBytes, dirtyBytes } = preCopy.left();
  expect([initialBytes > BigInt(memory.length), dirtyBytes]).toEqual([true, 0n]);
  expect(preCopy.restBytes()).toBeGreaterThan(memory.length);
  expect(looks()).toBe(0);
  preCopy.next();
  expect(preCopy.left().initialBytes).toBeLessThan(initialBytes);
  pieces();
  memory.fill(2, 0, 3 * PAGE);
  const before = looks();
  expect(Number(preCopy.left().dirtyBytes)).toBeGreaterThan(3 * PAGE);
  expect(preCopy.restBytes()).toBe(8 + 4 + 3 * (4 + PAGE));
  expect(looks() - before).toBe(1);
  memory.fill(2, 0, 4 * PAGE);
  expect(preCopy.restBytes()).toBe(8 + 4 + 4 * (4 + PAGE)); // asked alone, it looks
  expect(preCopy.rest()).toHaveLength(8 + 4 + 4 * (4 + PAGE));
});

test('as many bytes as the info tells have all that differs in them', () => {
  const { memory, preCopy, pieces } = large();
  pieces();
  for (const pages of [[2047], [0, 1023, 2047], Array.from({ length: 200 }, (_, i) => 7 * i)]) {
    for (const page of pages) memory[page * PAGE] = (memory[page * PAGE] as number) + 1;
    const stream = new SavingStream('a device', preCopy);
    let due = Number(preCopy.left().dirtyBytes);
    while (due > 0) due -= stream.read(new Uint8Array(due));
    expect(preCopy.left().dirtyBytes).toBe(0n);
  }
});

test('parts of a state are read one after the other, each when it is its turn, and none once the state has ended', () => {
  const parts = ['ab', '', 'cdefg', 'h'].map((text) => Buffer.from(text));
  const stream = new SavingStream('a device');
  stream.finish(parts);
  const read = (bytes: number): string => {
    const data = Buffer.alloc(bytes);
    return data.toString('latin1', 0, stream.read(data));
  };
  expect(read(3)).toBe('abc');
  parts[3]?.fill('x');
  expect([read(1), read(9), read(9)]).toEqual(['d', 'efgx', '']);
  stream.finish(parts);
  stream.end();
  expect(() => read(1)).toThrowError(/ENODEV/);
});

test('the pieces of one write are not copied once for each of them', () => {
  const blocks = new Set<ArrayBufferLike>();
  const pieces: string[] = [];
  const load = (piece: Uint8Array) => {
    blocks.add(piece.buffer);
    pieces.push(Buffer.from(piece).toString());
    return undefined;
  };
  const preCopy = { mostPieceBytes: 10, mostRestBytes: 10, load } as unknown as PreCopy;
  const loading = new LoadingStream('a device', { stateBytes: 0, preCopy });
  const each = Buffer.from('PRE\x01\x02\0\0\0ab', 'latin1');
  loading.write(Buffer.concat([...Array.from({ length: 1000 }, () => each), Buffer.from('rest')]));
  expect([blocks.size, pieces.length, new Set(pieces)]).toEqual([1, 1000, new Set(['ab'])]);
  expect(Buffer.from(loading.state).toString()).toBe('rest');
});

test('pieces are refused by a device without PRE_COPY', () => {
  const [from, to] = [made('testcard'), made('testcard', BYTES, { migration: 'stop-copy' })];
  expect(resumeState(to.ops, readAll(begin(from)).subarray(0, 100))).toBe('EINVAL');
  to.ops.reset?.();
});

test('registers that change while the memory is copied arrive as they are at the stop', () => {
  const bench = new CardBench({ ram: '256K', migration: 'pre-copy' });
  open.push(bench);
  const to = made('testcard');
  const data = begin({ ops: bench.ops, memory: new Uint8Array(0) });
  const pieces = readAll(data);
  bench.out(REG_SCRATCH, 0x1234);
  setDeviceState(bench.ops, VFIO_DEVICE_STATE_STOP_COPY);
  expect(resumeState(to.ops, Buffer.concat([pieces, readAll(data)]))).toBe('ok');
  const word = new Uint8Array(4);
  to.ops.read(0, REG_SCRATCH, word);
  expect([...word]).toEqual([0x34, 0x12, 0, 0]);
});

test('a thread that keeps memory that others may see until its end does not keep what was sent', () => {
  const unmapped = deferUnmapping();
  open.push({ [Symbol.dispose]: () => unmapped.end() });
  const { preCopy } = large();
  for (let i = 0; i < 3; i++) preCopy.begin();
  preCopy.end();
  expect(unmapped.take()).toEqual([]);
});

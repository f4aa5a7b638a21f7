/** What a client makes of a server's answers about a region, its memory and its doorbells. */
import { fstatSync, ftruncateSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { trace } from '../../../sys/trace.js';
import { VFIO_USER_DEVICE_GET_REGION_IO_FDS as IO_FDS } from '../protocol.js';
import { type FakeAnswer, FakeConnection } from '../testing/fake-connection.js';
import { bytes } from '../testing/peers/session.js';
import { UserRegions } from './regions.js';

const REGION = 2 ** 40;
const PAGE = 4096;
const [RW, MMAP, CAPS] = [3, 4, 8];

let scope: Scope;
let notes: string[];
beforeEach(() => {
  scope = new Scope();
  notes = [];
  const hear = ({ text }: { readonly text?: string }) => void notes.push(text ?? '');
  trace.vfio.subscribe(hear);
  scope.defer(() => trace.vfio.unsubscribe(hear));
});
afterEach(() => scope[Symbol.dispose]());

/** Memory that cannot shrink. */
const sealed = (size: number): Fd => scope.own(createSharedMemory('region', size)).fd.duplicate();
/** Memory that can. */
function loose(size: number): Fd {
  const fd = Fd.memfd('region');
  ftruncateSync(fd.number, size);
  return fd;
}

interface Told {
  readonly flags?: number;
  readonly size?: number;
  readonly fdOffset?: number;
  readonly areas?: readonly (readonly [number, number])[];
  /** Bytes that the server needs, whatever it sends. */
  readonly argsz?: number;
}

function reply({ flags = RW | MMAP, size = 2 * PAGE, fdOffset = 0, areas, argsz }: Told): Uint8Array {
  const capabilities =
    areas === undefined
      ? bytes()
      : bytes(0x1_0001, 0, areas.length, 0, ...areas.flat().map((value) => BigInt(value)));
  const whole = argsz ?? 32 + capabilities.length;
  const head = bytes(whole, areas === undefined ? flags : flags | CAPS, 3, areas === undefined ? 0 : 32);
  return Uint8Array.from(Buffer.concat([head, bytes(BigInt(size), BigInt(fdOffset)), capabilities]));
}

/** Regions of a server that gives these answers, one after the other. */
function regionsOf(answers: readonly FakeAnswer[], trusts = false) {
  const waiting = [...answers];
  const connection = new FakeConnection(() => waiting.shift());
  const regions = scope.own(new UserRegions(connection.it, 9, trusts));
  return { connection, regions, asked: () => connection.take().map(({ payload }) => payload) };
}

describe('a region', () => {
  test('is asked for once with 32 bytes, and again with what the answer needs', () => {
    const areas = [[0, PAGE]] as const;
    const fds = [sealed(2 * PAGE), sealed(2 * PAGE)] as const;
    const short = reply({ argsz: 64 });
    const { regions, asked } = regionsOf([
      { payload: short, fds: [fds[0]] },
      { payload: reply({ areas }), fds: [fds[1]] },
    ]);
    for (let i = 0; i < 2; i++)
      expect(regions.info(3)).toEqual({
        index: 3,
        flags: RW | MMAP | CAPS,
        size: 2 * PAGE,
        offset: 3 * REGION,
        capabilities: [{ id: 1, areas: [{ offset: 0, size: PAGE }] }],
      });
    expect(asked()).toEqual([32, 64].map((argsz) => [...bytes(argsz, 0, 3, 0, 0n, 0n)]));
    expect(fds.map(({ isOpen }) => isOpen)).toEqual([false, true]);
    regions[Symbol.dispose]();
    expect(fds[1].isOpen).toBe(false);
  });

  test('is asked for with 64 KiB at most', () => {
    const { regions, asked } = regionsOf([
      { payload: reply({ argsz: 1 << 20 }) },
      { payload: reply({ argsz: 1 << 20 }) },
    ]);
    expect(regions.info(3).flags).toBe(RW);
    expect(asked()[1]).toEqual([...bytes(64 * 1024, 0, 3, 0, 0n, 0n)]);
  });

  test.each([-1, 9, 1.5])('%d is EINVAL without a question', (index) => {
    const { regions, asked } = regionsOf([]);
    expect(() => regions.info(index)).toThrowError(/EINVAL\n.*there is no region/);
    expect(asked()).toEqual([]);
  });

  interface Case extends Told {
    readonly fd?: () => Fd;
    readonly trusts?: boolean;
    /** Why it is not mapped; undefined if it is. */
    readonly problem?: RegExp;
  }

  test.each<[string, Case]>([
    ['whose file is as long as it', { fd: () => sealed(2 * PAGE) }],
    ['whose file is a page short', { fd: () => sealed(PAGE), problem: /has 4096 bytes, fewer/ }],
    ['whose file is as long as its last area', { fd: () => sealed(PAGE), areas: [[0, PAGE]] }],
    ['at an offset of its file', { fd: () => sealed(3 * PAGE), fdOffset: PAGE }],
    [
      'at an offset too far',
      { fd: () => sealed(3 * PAGE), fdOffset: 2 * PAGE, problem: /has 12288 bytes, fewer/ },
    ],
    [
      'off the page in its file',
      { fd: () => sealed(4 * PAGE), fdOffset: 512, problem: /not of whole pages$/ },
    ],
    [
      'of half a page more',
      { fd: () => sealed(4 * PAGE), size: PAGE + 2048, problem: /not of whole pages$/ },
    ],
    [
      'with an area off the page',
      {
        fd: () => sealed(4 * PAGE),
        areas: [
          [0, PAGE],
          [2048, PAGE],
        ],
        problem: /whole pages$/,
      },
    ],
    [
      'with an area of half a page',
      { fd: () => sealed(4 * PAGE), areas: [[0, 2048]], problem: /whole pages$/ },
    ],
    [
      'whose memory could shrink',
      { fd: () => loose(2 * PAGE), problem: /could truncate its memory.*trust=on/ },
    ],
    ['whose memory could shrink, of a trusted server', { fd: () => loose(2 * PAGE), trusts: true }],
    [
      'whose file is short, of a trusted server',
      { fd: () => loose(PAGE), trusts: true, problem: /fewer than the region/ },
    ],
    ['without a descriptor', { problem: /passes no descriptor/ }],
    ['with no areas at all', { fd: () => sealed(PAGE), areas: [] }],
  ])('%s', (_what, { fd: make, trusts, problem, ...told }) => {
    const fd = make?.();
    const fds = fd === undefined ? [] : [fd];
    const payload = reply(told);
    const needed = new DataView(payload.buffer).getUint32(0, true);
    const short = needed > 32 ? [{ payload: payload.slice(0, 32) }] : [];
    const { regions } = regionsOf([...short, { payload, fds }], trusts);
    const info = regions.info(3);
    expect((info.flags & MMAP) !== 0).toBe(problem === undefined);
    expect(notes.join()).toMatch(problem ?? /^$/);
    if (problem !== undefined) expect(info.capabilities).toEqual([]);
    expect(regions.hasOtherWays).toBe(problem === undefined);
    const given = fd === undefined ? undefined : regions.given(3);
    if (fd !== undefined) {
      // Mapped here or not, another process may map it.
      expect(given?.file).toEqual({ fd, offset: told.fdOffset ?? 0 });
      expect((given?.info.flags ?? 0) & MMAP).toBe(MMAP);
      expect(regions.hasOtherWays).toBe(true);
    }
    regions[Symbol.dispose]();
    expect(fd?.isOpen ?? false).toBe(false);
  });

  test('that cannot be mapped keeps no descriptor, and says nothing of it', () => {
    const fd = sealed(2 * PAGE);
    const { regions } = regionsOf([{ payload: reply({ flags: RW }), fds: [fd] }]);
    expect(regions.info(3).flags).toBe(RW);
    expect([fd.isOpen, regions.given(3), regions.hasOtherWays, notes]).toEqual([false, undefined, false, []]);
  });

  test('of which the areas never come is neither mapped nor passed on', () => {
    const fd = sealed(2 * PAGE);
    const { regions } = regionsOf([
      { payload: reply({ argsz: 64 }) },
      { payload: reply({ argsz: 64 }), fds: [fd] },
    ]);
    expect(regions.info(3).flags & MMAP).toBe(0);
    expect(notes.join()).toMatch(/does not report which parts/);
    expect([fd.isOpen, regions.given(3)]).toEqual([false, undefined]);
  });

  test('whose answer is malformed leaves no descriptor', () => {
    const fd = sealed(PAGE);
    const { regions } = regionsOf([{ payload: new Uint8Array(8), fds: [fd] }]);
    expect(() => regions.info(3)).toThrowError(/EINVAL/);
    expect(fd.isOpen).toBe(false);
  });

  test('is mapped where it lies in its file, within its areas', () => {
    const memory = scope.own(createSharedMemory('region', 4 * PAGE));
    memory.mapping.view.slice(3 * PAGE, 1)[0] = 0x5a;
    const payload = reply({ size: 3 * PAGE, fdOffset: PAGE, areas: [[2 * PAGE, PAGE]] });
    const { regions } = regionsOf([
      { payload: payload.slice(0, 32) },
      { payload, fds: [memory.fd.duplicate()] },
    ]);
    using mapped = regions.mmap(3 * REGION + 2 * PAGE, PAGE);
    expect(mapped.view.slice(0, 1)[0]).toBe(0x5a);
    expect(() => regions.mmap(3 * REGION, PAGE)).toThrowError(/^mmap on \/run\/fake.sock: EINVAL/);
    expect(() => regions.mmap(3 * REGION + 3 * PAGE, PAGE)).toThrowError(/EINVAL\n.*which has 12288 bytes/);
    const bare = regionsOf([{ payload: reply({ flags: RW }) }]).regions;
    expect(() => bare.mmap(3 * REGION, PAGE)).toThrowError(/EINVAL\n.*region 3 cannot be mapped/);
  });
});

describe('doorbells', () => {
  const bell = () => Fd.eventfd('bell');
  const region = { payload: reply({ flags: RW }) };
  const entry = (at: number, fdIndex: number, type = 0, datamatch?: bigint) =>
    [BigInt(at), 4n, fdIndex, type, datamatch === undefined ? 0 : 1, 0, datamatch ?? 0n] as const;
  const whole = (...entries: ReturnType<typeof entry>[]) =>
    bytes(16 + 40 * entries.length, 0, 3, entries.length, ...entries.flat());

  test('are asked for twice, and kept as duplicates that are closed with the region', () => {
    const fd = bell();
    const { ino } = fstatSync(fd.number);
    const entries = [entry(0x10, 0), entry(0x20, 0, 0, 7n), entry(0x30, 1), entry(0x40, 0, 1)] as const;
    const { regions, asked } = regionsOf([
      region,
      { payload: bytes(16 + 160, 0, 3, 4) },
      { payload: whole(...entries), fds: [fd] },
    ]);
    const found = regions.ioFds(3);
    expect(regions.ioFds(3)).toBe(found);
    // The third has no descriptor, the fourth is of a kind that this process would have to read.
    expect(found).toMatchObject([
      { offset: 0x10, size: 4 },
      { offset: 0x20, size: 4, datamatch: 7n },
    ]);
    expect(Object.hasOwn(found[0] as object, 'datamatch')).toBe(false);
    expect(found.map((each) => fstatSync(each.fd).ino)).toEqual([ino, ino]);
    expect(fd.isOpen).toBe(false);
    expect(asked().slice(1)).toEqual([16, 176].map((argsz) => [...bytes(argsz, 0, 3, 0)]));
    expect(regions.hasOtherWays).toBe(true);
    const owned = found.map((each) => (each as unknown as { owned: Fd }).owned);
    regions[Symbol.dispose]();
    expect(owned.map(({ isOpen }) => isOpen)).toEqual([false, false]);
  });

  test.each([0, 1])('are other ways to the device: %i of them', (count) => {
    const entries = [entry(0x10, 0)].slice(0, count);
    const { regions } = regionsOf([
      region,
      { payload: bytes(16 + 40 * count, 0, 3, count) },
      { payload: whole(...entries), fds: [scope.own(bell())] },
    ]);
    expect(regions.ioFds(3)).toHaveLength(count);
    expect(regions.hasOtherWays).toBe(count > 0);
  });

  test('are asked for with 64 KiB at most', () => {
    const { regions, asked } = regionsOf([
      region,
      { payload: bytes(1 << 20, 0, 3, 1) },
      { payload: bytes(16, 0, 3, 1) },
    ]);
    expect(regions.ioFds(3)).toEqual([]);
    expect(asked()[2]).toEqual([...bytes(64 * 1024, 0, 3, 0)]);
  });

  test('are none of a server that says so, or of version 0.0, which is not asked', () => {
    const none = regionsOf([region, { payload: bytes(16, 0, 3, 0) }]);
    expect(none.regions.ioFds(3)).toEqual([]);
    expect(none.asked()).toHaveLength(2);
    expect(none.regions.hasOtherWays).toBe(false);
    const old = regionsOf([region]);
    old.connection.minor = 0;
    expect(old.regions.ioFds(3)).toEqual([]);
    expect(old.asked()).toHaveLength(1);
    const younger = regionsOf([region, { payload: bytes(16, 0, 3, 0) }]);
    younger.connection.minor = 1;
    younger.regions.ioFds(3);
    expect(younger.asked()).toHaveLength(2);
    expect(() => old.regions.ioFds(9)).toThrowError(/EINVAL/);
  });

  test('are none if the server refuses the question, but an error if it is gone, or another one', () => {
    const failing = (error: Error, isGone = false) => {
      const connection = new FakeConnection(({ command }) => {
        if (command !== IO_FDS) return region;
        connection.isGone = isGone;
        throw error;
      });
      return scope.own(new UserRegions(connection.it, 9, false));
    };
    const refusal = new SysError({ call: 'ask', target: 'server', errno: errno.ENOTTY });
    expect(failing(refusal).ioFds(3)).toEqual([]);
    expect(() => failing(refusal, true).ioFds(3)).toThrowError(refusal);
    expect(() => failing(new RangeError('ours')).ioFds(3)).toThrowError('ours');
  });
});

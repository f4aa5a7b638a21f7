/** A client's maps in the container of its device, and the files behind them. */
import { ftruncateSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { duplicateFd, Fd } from '../../../sys/fd.js';
import { createSharedMemory, findMapping, liveMappings } from '../../../sys/mapping.js';
import { trace } from '../../../sys/trace.js';
import type { ContainerFile, DmaMap, DmaUnmap } from '../../uapi.js';
import { bytes } from '../testing/peers/session.js';
import { ClientFiles } from './client-files.js';
import { ClientMemory } from './client-memory.js';

const PAGE = 4096;
const page = 4096n;

/** A client's memory in a container that only keeps what it is told. */
function client({ trustsClient = false, canUnmapAll = true, refuses = false } = {}) {
  const calls: (DmaMap | DmaUnmap)[] = [];
  const container = {
    checkExtension: () => (canUnmapAll ? 1 : 0),
    mapDma(map: DmaMap) {
      if (refuses) throw new SysError({ call: 'map', target: 'container', errno: errno.EEXIST });
      calls.push(map);
    },
    unmapDma(unmap: DmaUnmap) {
      if (refuses) throw new SysError({ call: 'unmap', target: 'container', errno: errno.EINVAL });
      calls.push(unmap);
      return 0n;
    },
  } as unknown as ContainerFile;
  const remote = { rw: () => {} };
  const memory = new ClientMemory({ container, remote, trustsClient });
  return {
    memory,
    remote,
    take: () => calls.splice(0),
    refuse: (isSo: boolean) => {
      refuses = isSo;
    },
  };
}

const map = (flags: number, offset: bigint, at: bigint, size: bigint, argsz = 32) =>
  bytes(argsz, flags, offset, at, size);
const unmap = (at: bigint, size: bigint, flags = 0, argsz = 24) => bytes(argsz, flags, at, size);

describe('a map', () => {
  test.each([1, 2, 3])(
    'has the rights of its flags (%i), and is reached by message without a file',
    (flags) => {
      const { memory, remote, take } = client();
      memory.map(map(flags, 0n, 5n * page, 2n * page), []);
      expect(take()).toEqual([{ flags, iova: 5n * page, size: 2n * page, remote }]);
    },
  );

  test('with a file that cannot shrink is mapped where it lies in it', () => {
    const { memory, take } = client();
    using file = createSharedMemory('client', 4 * PAGE);
    file.mapping.view.slice(2 * PAGE, 1)[0] = 0x77;
    memory.map(map(3, 2n * page, 0n, page), [file.fd]);
    const [{ vaddr } = { vaddr: undefined }] = take() as { vaddr?: DmaMap['vaddr'] }[];
    if (vaddr === undefined) throw new RangeError('not mapped');
    const mapping = findMapping(vaddr, page);
    expect(mapping?.view.slice(Number(vaddr - mapping.hva), 1)[0]).toBe(0x77);
    memory[Symbol.dispose]();
  });

  test.each<[string, Uint8Array, number, RegExp]>([
    ['other flags', map(7, 0n, 0n, page), 0, /EINVAL\n.*flags 0x7/],
    ['two descriptors', map(3, 0n, 0n, page), 2, /EINVAL\n.*2 descriptors for one map/],
    ['a short argsz', map(3, 0n, 0n, page, 31), 0, /EINVAL\n.*argsz 31 is less than 32/],
    ['an offset that is no number', map(3, 1n << 60n, 0n, page), 1, /EINVAL\n.*out of range/],
  ])('with %s is refused', (_what, payload, count, error) => {
    const { memory, take } = client();
    using file = createSharedMemory('client', PAGE);
    expect(() => memory.map(payload, new Array<Fd>(count).fill(file.fd))).toThrowError(error);
    expect(take()).toEqual([]);
  });

  test('that the container refuses leaves no mapping', () => {
    const { memory } = client({ refuses: true });
    using file = createSharedMemory('client', PAGE);
    const before = liveMappings();
    expect(() => memory.map(map(3, 0n, 0n, page), [file.fd])).toThrowError(/EEXIST/);
    expect(liveMappings()).toBe(before);
  });

  test('is one of 65,535', () => {
    const { memory, take } = client();
    const one = (i: number) => memory.map(map(3, 0n, BigInt(i) * page, page), []);
    for (let i = 0; i < 65_535; i++) one(i);
    expect(() => one(65_535)).toThrowError(/^VFIO_USER_DMA_MAP on client: ENOSPC\n.*65535 maps/);
    expect(take()).toHaveLength(65_535);
    memory.unmap(unmap(0n, page));
    one(0);
  });
});

describe('an unmap', () => {
  test('is answered with what it asked for, and releases the files of its maps alone', () => {
    const { memory, take } = client();
    const before = liveMappings();
    using first = createSharedMemory('first', PAGE);
    using second = createSharedMemory('second', PAGE);
    using third = createSharedMemory('third', PAGE);
    const mine = liveMappings() - before;
    for (const [i, { fd }] of [first, second, third].entries())
      memory.map(map(3, 0n, BigInt(i) * page, page), [fd]);
    take();
    const left = () => liveMappings() - before - mine;
    expect(left()).toBe(3);
    expect([...memory.unmap(unmap(page, page, 0, 100))]).toEqual([...unmap(page, page, 0, 100)]);
    expect(take()).toEqual([{ flags: 0, iova: page, size: page }]);
    expect(left()).toBe(2);
    memory.unmap(unmap(page, page));
    expect(left()).toBe(2);
    memory.unmap(unmap(2n * page, 8n * page));
    expect(left()).toBe(1);
    memory.unmap(unmap(0n, 4n * page));
    expect(left()).toBe(0);
  });

  test.each([true, false])('of all releases all; in one call: %s', (canUnmapAll) => {
    const { memory, take } = client({ canUnmapAll });
    using file = createSharedMemory('client', PAGE);
    const before = liveMappings();
    expect([...memory.unmap(unmap(0n, 0n, 2))]).toEqual([...unmap(0n, 0n, 2)]);
    expect(take()).toEqual([]);
    memory.map(map(3, 0n, 0n, page), [file.fd]);
    memory.map(map(3, 0n, 2n * page, page), []);
    take();
    memory.unmap(unmap(0n, 0n, 2));
    const each = [0n, 2n * page].map((iova) => ({ flags: 0, iova, size: page }));
    expect(take()).toEqual(canUnmapAll ? [{ flags: 2, iova: 0n, size: 0n }] : each);
    expect(liveMappings()).toBe(before);
    memory[Symbol.dispose]();
    expect(take()).toEqual([]);
  });

  test('comes with the end of the client', () => {
    const { memory, take } = client();
    using file = createSharedMemory('client', PAGE);
    const before = liveMappings();
    memory.map(map(3, 0n, 0n, page), [file.fd]);
    take();
    memory[Symbol.dispose]();
    expect(take()).toEqual([{ flags: 2, iova: 0n, size: 0n }]);
    expect(liveMappings()).toBe(before);
  });

  test.each<[string, Uint8Array, RegExp]>([
    ['other flags', unmap(0n, page, 1), /flags 0x1/],
    ['other flags beside all', unmap(0n, 0n, 6), /flags 0x6/],
    ['all and an address', unmap(page, 0n, 2), /all of it, and a range/],
    ['all and a size', unmap(0n, page, 2), /all of it, and a range/],
    ['a short argsz', unmap(0n, page, 0, 23), /argsz 23 is less than 24/],
  ])('of %s is EINVAL', (_what, payload, hint) => {
    const { memory, take } = client();
    memory.map(map(3, 0n, 0n, page), []);
    take();
    expect(() => memory.unmap(payload)).toThrowError(/EINVAL/);
    expect(() => memory.unmap(payload)).toThrowError(hint);
    expect(take()).toEqual([]);
  });

  test('that the container refuses keeps the memory', () => {
    const { memory, refuse } = client();
    using file = createSharedMemory('client', PAGE);
    memory.map(map(3, 0n, 0n, page), [file.fd]);
    const before = liveMappings();
    refuse(true);
    expect(() => memory.unmap(unmap(0n, page))).toThrowError(/EINVAL/);
    expect(liveMappings()).toBe(before);
    refuse(false);
    memory[Symbol.dispose]();
  });
});

describe('a client’s file', () => {
  /** A file that can shrink. */
  function loose(size: number): Fd {
    const fd = Fd.memfd('loose');
    ftruncateSync(fd.number, size);
    return fd;
  }

  test('is mapped once for each direction, until its last range is released', () => {
    using files = new ClientFiles(false);
    using file = createSharedMemory('client', 4 * PAGE);
    const before = liveMappings();
    const first = files.share(file.fd, 0, PAGE, true);
    const second = files.share(file.fd, 3 * PAGE, PAGE, true);
    expect((second?.hva ?? 0n) - (first?.hva ?? 0n)).toBe(3n * page);
    expect(liveMappings() - before).toBe(1);
    const third = files.share(file.fd, 0, 4 * PAGE, false);
    expect(liveMappings() - before).toBe(2);
    const hva = third?.hva as NonNullable<typeof third>['hva'];
    expect([findMapping(hva, page)?.isWritable, findMapping(hva, page)?.bytes]).toEqual([false, 4 * PAGE]);
    first?.[Symbol.dispose]();
    first?.[Symbol.dispose]();
    expect(liveMappings() - before).toBe(2);
    second?.[Symbol.dispose]();
    expect(liveMappings() - before).toBe(1);
    files[Symbol.dispose]();
    expect(liveMappings()).toBe(before);
  });

  test('has to hold the range, to the byte', () => {
    using files = new ClientFiles(true);
    using file = loose(PAGE + 100);
    expect(files.share(file, PAGE, 100, true)).toBeDefined();
    expect(() => files.share(file, PAGE, 101, true)).toThrowError(/EINVAL\n.*the file has 4196 bytes/);
  });

  test('that could shrink is left to messages, which is told, unless the client is trusted', () => {
    const notes: string[] = [];
    const hear = ({ text }: { readonly text?: string }) => void notes.push(text ?? '');
    trace.vfio.subscribe(hear);
    using file = loose(PAGE);
    using careful = new ClientFiles(false);
    using trusting = new ClientFiles(true);
    expect(careful.share(file, 0, PAGE, true)).toBeUndefined();
    expect(notes.join()).toMatch(/could truncate .*--trust-client/);
    expect(trusting.share(file, 0, PAGE, true)).toBeDefined();
    trace.vfio.unsubscribe(hear);
    expect(notes).toHaveLength(1);
  });

  test('that is none is EINVAL', () => {
    using files = new ClientFiles(true);
    using bell = Fd.eventfd('bell');
    using folder = Fd.open('/tmp', 'r');
    for (const fd of [bell, folder])
      expect(() => files.share(fd, 0, 0, true)).toThrowError(/EINVAL\n.*not one of memory/);
  });

  test('that is larger than the limit is mapped by its ranges, from page to page', () => {
    using files = new ClientFiles(true);
    using file = loose(2 ** 43);
    const range = files.share(file, 5 * PAGE + 100, 200, true);
    const hva = range?.hva as NonNullable<typeof range>['hva'];
    const mapping = findMapping(hva, 1n);
    expect([mapping?.bytes, hva - (mapping?.hva ?? 0n)]).toEqual([PAGE, 100n]);
    const before = liveMappings();
    const inside = files.share(file, 5 * PAGE, PAGE, true);
    expect(liveMappings()).toBe(before);
    expect((inside?.hva ?? 0n) - (mapping?.hva ?? 0n)).toBe(0n);
    const behind = files.share(file, 6 * PAGE, 1, true);
    const inFront = files.share(file, 5 * PAGE - 1, 2, true);
    expect(liveMappings()).toBe(before + 2);
    behind?.[Symbol.dispose]();
    inFront?.[Symbol.dispose]();
    expect(liveMappings()).toBe(before);
  });

  test('of as many bytes as are left is mapped whole, and gives them back', () => {
    using files = new ClientFiles(true);
    using most = loose(2 ** 42);
    using other = loose(PAGE);
    for (let i = 0; i < 2; i++) {
      const whole = files.share(most, 0, PAGE, true);
      const hva = whole?.hva as NonNullable<typeof whole>['hva'];
      expect(findMapping(hva, 1n)?.bytes).toBe(2 ** 42);
      expect(() => files.share(other, 0, PAGE, true)).toThrowError(/^VFIO_USER_DMA_MAP on client: ENOSPC/);
      whole?.[Symbol.dispose]();
    }
    files.share(most, 0, PAGE, true);
    files[Symbol.dispose]();
    expect(files.share(other, 0, PAGE, true)).toBeDefined();
  });

  test('that cannot shrink is kept, for 64 mappings', () => {
    using files = new ClientFiles(true);
    const shared = Array.from({ length: 66 }, (_, i) => {
      using file = createSharedMemory(`file ${i}`, PAGE);
      using sent = duplicateFd(file.fd.number, 'sent');
      return files.share(sent, 0, PAGE, true);
    });
    using unsealed = loose(PAGE);
    using sent = duplicateFd(unsealed.number, 'sent');
    shared.push(files.share(sent, 0, PAGE, true));
    const isKept = shared.map(
      (range) => findMapping(range?.hva as NonNullable<typeof range>['hva'], page)?.file !== undefined,
    );
    expect(isKept).toEqual([...new Array<boolean>(64).fill(true), false, false, false]);
    shared[0]?.[Symbol.dispose]();
    using early = createSharedMemory('early', PAGE);
    using sentEarly = duplicateFd(early.fd.number, 'sent');
    const again = files.share(sentEarly, 0, PAGE, true);
    // There are 66 mappings, still.
    expect(findMapping(again?.hva as NonNullable<typeof again>['hva'], page)?.file).toBeUndefined();
  });

  test('for reading only cannot be shared for writing, and leaves nothing open', () => {
    using files = new ClientFiles(false);
    using file = createSharedMemory('client', PAGE);
    using readOnly = Fd.readOnly(file.fd.number, 'read-only');
    const before = liveMappings();
    expect(() => files.share(readOnly, 0, PAGE, true)).toThrowError(/EACCES/);
    expect(liveMappings()).toBe(before);
    expect(files.share(readOnly, 0, PAGE, false)).toBeDefined();
  });
});

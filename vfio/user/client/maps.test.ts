/** A container's maps: what the servers are told of them, in which order, and what their requests reach. */
import { describe, expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { createSharedMemory, Mapping } from '../../../sys/mapping.js';
import type { DmaTableEntry, DmaTableWriter } from '../../dma-table.js';
import { VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL } from '../../uapi.js';
import {
  VFIO_USER_DMA_READ as DMA_READ,
  VFIO_USER_DMA_WRITE as DMA_WRITE,
  VFIO_USER_DMA_MAP as MAP,
  VFIO_USER_DMA_UNMAP as UNMAP,
} from '../protocol.js';
import { FakeConnection, type Sent } from '../testing/fake-connection.js';
import { bytes } from '../testing/peers/session.js';
import { UserContainerFile } from './container.js';

const PAGE = 4096n;
const refused = new SysError({ call: 'map', target: 'server', errno: errno.ENOMEM });

/** A table that keeps its entries in sight. */
class Table {
  entries: DmaTableEntry[] = [];
  replace(entries: readonly DmaTableEntry[]): void {
    this.entries = [...entries];
  }
  splice(index: number, removed: number, added: readonly DmaTableEntry[]): void {
    if (index + removed > this.entries.length) throw new RangeError('no such entries');
    this.entries.splice(index, removed, ...added);
  }
}

/** A server; `answer` may refuse. */
function server(answer: (sent: Sent) => void = () => {}, hasTable = false) {
  const connection = new FakeConnection((sent) => void answer(sent));
  const table = new Table();
  if (hasTable) connection.dmaTable = table as unknown as DmaTableWriter;
  return { connection, table };
}

function containerOf(...connections: FakeConnection[]): UserContainerFile {
  const container = new UserContainerFile();
  for (const connection of connections) container.add(connection.it);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  return container;
}

const told = (connection: FakeConnection) =>
  connection.take().map(({ command, payload }) => [command, payload]);
const mapOf = (rights: number, offset: bigint, at: bigint, size: bigint) => [
  MAP,
  [...bytes(32, rights, offset, at, size)],
];
const unmapOf = (at: bigint, size: bigint) => [UNMAP, [...bytes(24, 0, at, size)]];

test('an IOMMU is set once, of type1v2, once a server is there', () => {
  using container = new UserContainerFile();
  expect([container.getApiVersion(), container.checkExtension(VFIO_TYPE1v2_IOMMU)]).toEqual([0, 1]);
  expect([container.checkExtension(VFIO_UNMAP_ALL), container.checkExtension(1)]).toEqual([1, 0]);
  const set = (type: number) => container.setIommu(type);
  expect(() => set(VFIO_TYPE1v2_IOMMU)).toThrowError(/^VFIO_SET_IOMMU .*EINVAL\n.*put a group into/);
  for (const use of [
    () => container.getIommuInfo(),
    () => container.mapDma({ flags: 3, iova: iova(0n), size: PAGE, remote: { rw: () => {} } }),
    () => container.unmapDma({ flags: 0, iova: iova(0n), size: PAGE }),
  ])
    expect(use).toThrowError(/EINVAL\n.*set its IOMMU first/);
  container.add(server().connection.it);
  expect(() => set(VFIO_UNMAP_ALL)).toThrowError(/EINVAL\n.*an extension, not a type/);
  expect(() => set(1)).toThrowError(/ENODEV\n.*type1v2 only/);
  set(VFIO_TYPE1v2_IOMMU);
  expect(() => set(VFIO_TYPE1v2_IOMMU)).toThrowError(/EINVAL\n.*it is set/);
});

test('a server is told of rights, the place in the file, IOVA and size, and of the descriptor', () => {
  const { connection } = server();
  using container = containerOf(connection);
  using memory = createSharedMemory('guest', Number(4n * PAGE));
  using part = Mapping.file(memory.fd, Number(2n * PAGE), { offset: Number(2n * PAGE) });
  using own = Mapping.anonymous(Number(PAGE));
  const remote = { rw: () => {} };
  container.mapDma({ flags: 3, vaddr: memory.mapping.hva, iova: iova(0n), size: PAGE });
  container.mapDma({ flags: 2, vaddr: iovaOf(memory.mapping.hva, PAGE), iova: iova(0x1000n), size: PAGE });
  container.mapDma({ flags: 1, vaddr: iovaOf(part.hva, PAGE), iova: iova(0x1_0000_0000n), size: PAGE });
  container.mapDma({ flags: 3, vaddr: own.hva, iova: iova(0x3000n), size: PAGE });
  container.mapDma({ flags: 1, remote, iova: iova(0x4000n), size: PAGE });
  const all = connection.take();
  expect(all.map(({ payload }) => [MAP, payload])).toEqual([
    mapOf(3, 0n, 0n, PAGE),
    mapOf(2, PAGE, 0x1000n, PAGE),
    mapOf(1, 3n * PAGE, 0x1_0000_0000n, PAGE),
    mapOf(3, 0n, 0x3000n, PAGE),
    mapOf(1, 0n, 0x4000n, PAGE),
  ]);
  expect(all.map(({ fds }) => fds.length)).toEqual([1, 1, 1, 0, 0]);
  expect([all[0]?.fds[0], all[1]?.fds[0]]).toEqual([memory.fd.number, memory.fd.number]);
});

const iovaOf = <T extends bigint>(address: T, offset: bigint): T => (address + offset) as T;

test.each<[string, { flags?: number; at?: bigint; size?: bigint }, RegExp]>([
  ['no rights', { flags: 0 }, /EINVAL\n.*flags 0x0/],
  ['an end behind the last address', { at: (1n << 64n) - PAGE, size: 2n * PAGE }, /EINVAL\n.*wraps/],
  ['half a page', { size: 2048n }, /EINVAL/],
  ['an overlap', { at: 0x1_0000n, size: 2n * PAGE }, /EEXIST\n.*0x10000 overlaps a map/],
  ['no memory behind it', { size: 8n * PAGE }, /EFAULT\n.*not in one live Mapping/],
])(
  'a map with %s is refused, and no server hears of it',
  (_what, { flags = 3, at = 0n, size = PAGE }, error) => {
    const { connection } = server();
    using container = containerOf(connection);
    using memory = createSharedMemory('guest', Number(4n * PAGE));
    const { hva: vaddr } = memory.mapping;
    container.mapDma({ flags: 3, vaddr, iova: iova(0x1_1000n), size: PAGE });
    connection.take();
    expect(() => container.mapDma({ flags, vaddr, iova: iova(at), size })).toThrowError(error);
    expect(connection.take()).toEqual([]);
  },
);

test('memory for reading only cannot be mapped for writing', () => {
  const { connection } = server();
  using container = containerOf(connection);
  using memory = createSharedMemory('guest', Number(PAGE));
  using readOnly = Mapping.file(memory.fd, Number(PAGE), { isWritable: false });
  const map = (flags: number) => container.mapDma({ flags, vaddr: readOnly.hva, iova: iova(0n), size: PAGE });
  expect(() => map(3)).toThrowError(/EFAULT\n.*read-only/);
  map(1);
  expect(connection.take()).toHaveLength(1);
});

test('maps are left as the servers’ limits allow, and come back', () => {
  const { connection } = server();
  connection.capabilities = { ...connection.capabilities, maxDmaMaps: 2 };
  const { connection: other } = server();
  using container = containerOf(connection, other);
  const map = (at: bigint) =>
    container.mapDma({ flags: 3, remote: { rw: () => {} }, iova: iova(at), size: PAGE });
  expect(container.getIommuInfo()).toEqual({
    pageSizes: (1n << 64n) - PAGE,
    iovaRanges: [],
    dmaAvailable: 2,
  });
  map(0n);
  expect(container.getIommuInfo().dmaAvailable).toBe(1);
  map(PAGE);
  expect(() => map(2n * PAGE)).toThrowError(/ENOSPC\n.*max_dma_maps/);
  connection.capabilities = { ...connection.capabilities, maxDmaMaps: 1 };
  expect(container.getIommuInfo().dmaAvailable).toBe(0);
  expect(container.unmapDma({ flags: 0, iova: iova(0n), size: 2n * PAGE })).toBe(2n * PAGE);
  expect(container.getIommuInfo().dmaAvailable).toBe(1);
});

test('a map that one server refuses is taken back from those that have it, and is none', () => {
  const { connection: first, table } = server(undefined, true);
  const { connection: gone } = server();
  gone.isGone = true;
  const { connection: second } = server(({ command }) => {
    if (command === MAP) throw refused;
  });
  const { connection: third } = server();
  using container = containerOf(first, gone, second, third);
  using memory = createSharedMemory('guest', Number(PAGE));
  const { hva: vaddr } = memory.mapping;
  expect(() => container.mapDma({ flags: 3, vaddr, iova: iova(0n), size: PAGE })).toThrowError(refused);
  expect(told(first)).toEqual([mapOf(3, 0n, 0n, PAGE), unmapOf(0n, PAGE)]);
  expect([told(gone), told(second), told(third)]).toEqual([[], [mapOf(3, 0n, 0n, PAGE)], []]);
  expect(table.entries).toEqual([]);
  expect(container.unmapDma({ flags: 0, iova: iova(0n), size: PAGE })).toBe(0n);
});

test('a server that comes later is told of all maps, and of none if it refuses one', () => {
  const { connection: first } = server();
  using container = containerOf(first);
  const remote = { rw: () => {} };
  for (const at of [0n, PAGE]) container.mapDma({ flags: 3, remote, iova: iova(at), size: PAGE });
  const { connection: picky } = server(({ command, payload }) => {
    if (command === MAP && payload[17] === 0x10) throw refused;
  });
  expect(() => container.add(picky.it)).toThrowError(refused);
  expect(told(picky)).toEqual([mapOf(3, 0n, 0n, PAGE), mapOf(3, 0n, PAGE, PAGE), unmapOf(0n, PAGE)]);
  expect(picky.handler).toBeUndefined();
  const { connection: late } = server();
  container.add(late.it);
  expect(told(late)).toEqual([mapOf(3, 0n, 0n, PAGE), mapOf(3, 0n, PAGE, PAGE)]);
  first.take();
  container.unmapDma({ flags: 0, iova: iova(0n), size: PAGE });
  expect([told(first), told(late), told(picky)]).toEqual([[unmapOf(0n, PAGE)], [unmapOf(0n, PAGE)], []]);
});

test('a server that leaves loses its maps; the last one ends the IOMMU', () => {
  const { connection: first, table } = server(undefined, true);
  const { connection: second } = server();
  const container = containerOf(first, second);
  using memory = createSharedMemory('guest', Number(PAGE));
  container.mapDma({ flags: 3, vaddr: memory.mapping.hva, iova: iova(0n), size: PAGE });
  expect(table.entries).toHaveLength(1);
  for (const each of [first, second]) each.take();
  container.remove(first.it);
  expect([told(first), told(second), table.entries, first.handler]).toEqual([
    [unmapOf(0n, PAGE)],
    [],
    [],
    undefined,
  ]);
  expect(container.getIommuInfo().dmaAvailable).toBe(65_534);
  second.isGone = true;
  container[Symbol.dispose]();
  expect([told(second), second.handler]).toEqual([[], undefined]);
  container.add(first.it);
  expect(told(first)).toEqual([]);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(table.entries).toEqual([]);
});

describe('an unmap', () => {
  const three = (connection: FakeConnection) => {
    const container = containerOf(connection);
    for (const at of [0n, 1n, 4n])
      container.mapDma({
        flags: 3,
        remote: { rw: () => {} },
        iova: iova(at * PAGE),
        size: at === 4n ? 2n * PAGE : PAGE,
      });
    connection.take();
    return container;
  };

  test.each<[string, { flags?: number; at?: bigint; size?: bigint }, readonly bigint[]]>([
    ['of one takes that one', { at: 1n, size: 1n }, [1n]],
    ['of a range takes those inside', { at: 0n, size: 4n }, [0n, 1n]],
    ['of nothing takes nothing', { at: 2n, size: 2n }, []],
    ['of all takes all', { flags: 2, at: 0n, size: 0n }, [0n, 1n, 4n]],
  ])('%s', (_what, { flags = 0, at = 0n, size = 0n }, gone) => {
    const { connection } = server();
    using container = three(connection);
    const pages = (first: bigint) => (first === 4n ? 2n * PAGE : PAGE);
    const sum = gone.reduce((total, first) => total + pages(first), 0n);
    expect(container.unmapDma({ flags, iova: iova(at * PAGE), size: size * PAGE })).toBe(sum);
    expect(told(connection)).toEqual(gone.map((first) => unmapOf(first * PAGE, pages(first))));
  });

  test.each<[string, number, bigint, bigint, RegExp]>([
    ['that cuts a map in front', 0, 3n * PAGE, 2n * PAGE, /it would cut the map at 0x4000/],
    ['that cuts a map behind', 0, 5n * PAGE, 2n * PAGE, /it would cut the map at 0x4000/],
    ['of no bytes', 0, 0n, 0n, /misaligned or empty/],
    ['of all, with a size', 2, 0n, PAGE, /flags 0x2/],
    ['of all, with an address', 2, PAGE, 0n, /flags 0x2/],
    ['with other flags', 1, 0n, PAGE, /flags 0x1/],
    ['with other flags beside all', 6, 0n, 0n, /flags 0x6/],
  ])('%s is EINVAL, and takes nothing', (_what, flags, at, size, hint) => {
    const { connection } = server();
    using container = three(connection);
    const unmap = () => container.unmapDma({ flags, iova: iova(at), size });
    expect(unmap).toThrowError(/^VFIO_IOMMU_UNMAP_DMA on container \(vfio-user\): EINVAL/);
    expect(unmap).toThrowError(hint);
    expect(told(connection)).toEqual([]);
  });

  test('that a server refuses is one all the same; what is no errno is not hidden', () => {
    let error: Error = refused;
    const { connection } = server(({ command }) => {
      if (command === UNMAP) throw error;
    });
    const container = three(connection);
    expect(container.unmapDma({ flags: 0, iova: iova(0n), size: PAGE })).toBe(PAGE);
    error = new RangeError('ours');
    expect(() => container.unmapDma({ flags: 0, iova: iova(PAGE), size: PAGE })).toThrowError('ours');
  });
});

test('tables have the maps by IOVA, with rights and addresses, if these are exact', () => {
  const { connection, table } = server(undefined, true);
  using container = containerOf(connection);
  using memory = createSharedMemory('guest', Number(PAGE));
  const { hva: vaddr } = memory.mapping;
  const END = 2n ** 52n;
  for (const [at, flags] of [
    [3n * PAGE, 1],
    [0n, 2],
    [2n * PAGE, 3],
    [END - PAGE, 3],
    [END, 3],
  ] as const)
    container.mapDma({ flags, vaddr, iova: iova(at), size: PAGE });
  const entry = (at: bigint, prot: number) => ({
    iova: Number(at),
    bytes: 4096,
    address: Number(vaddr),
    prot,
  });
  const all = [entry(0n, 2), entry(2n * PAGE, 3), entry(3n * PAGE, 1), entry(END - PAGE, 3)];
  expect(table.entries).toEqual(all);
  const { connection: late, table: lateTable } = server(undefined, true);
  container.add(late.it);
  expect(lateTable.entries).toEqual(all);
  for (const at of [END, 2n * PAGE, END - PAGE]) container.unmapDma({ flags: 0, iova: iova(at), size: PAGE });
  expect(table.entries).toEqual([entry(0n, 2), entry(3n * PAGE, 1)]);
  expect(lateTable.entries).toEqual(table.entries);
});

describe('a server’s request', () => {
  test('spans maps, each at its place, within their rights', () => {
    const { connection } = server();
    using container = containerOf(connection);
    using memory = createSharedMemory('guest', Number(4n * PAGE));
    const { hva, view } = memory.mapping;
    const remote: unknown[] = [];
    container.mapDma({ flags: 3, vaddr: iovaOf(hva, 2n * PAGE), iova: iova(0n), size: PAGE });
    container.mapDma({ flags: 1, vaddr: hva, iova: iova(PAGE), size: PAGE });
    container.mapDma({
      flags: 3,
      iova: iova(2n * PAGE),
      size: PAGE,
      remote: {
        rw: (at, data, isWrite) => {
          remote.push([at, data.length, isWrite]);
          if (!isWrite) data.fill(9);
        },
      },
    });
    const ask = (command: number, at: bigint, count: number, data: readonly number[] = []) =>
      [
        ...(connection.handler as NonNullable<typeof connection.handler>)(
          command,
          bytes(at, BigInt(count), data),
        ),
      ].slice(16);
    view.slice(Number(3n * PAGE) - 1, 1)[0] = 5;
    view.slice(0, 1)[0] = 6;
    expect(ask(DMA_READ, PAGE - 1n, 2)).toEqual([5, 6]);
    expect(ask(DMA_READ, 2n * PAGE - 1n, 3)).toEqual([0, 9, 9]);
    expect(ask(DMA_WRITE, 3n * PAGE - 2n, 2, [1, 2])).toEqual([]);
    expect(remote).toEqual([
      [2n * PAGE, 2, false],
      [3n * PAGE - 2n, 2, true],
    ]);
    ask(DMA_WRITE, 16n, 2, [7, 8]);
    expect([...view.slice(Number(2n * PAGE) + 15, 4)]).toEqual([0, 7, 8, 0]);
    expect(() => ask(DMA_WRITE, PAGE - 1n, 2, [1, 1])).toThrowError(/^VFIO_USER_DMA_WRITE on .*EPERM/);
    expect(() => ask(DMA_READ, 3n * PAGE - 1n, 2)).toThrowError(
      /^VFIO_USER_DMA_READ on .*EFAULT\n.*0x3000 is not mapped/,
    );
    expect(view.slice(0, 1)[0]).toBe(6);
  });

  test('is refused of memory for writing only', () => {
    const { connection } = server();
    using container = containerOf(connection);
    container.mapDma({ flags: 2, remote: { rw: () => {} }, iova: iova(0n), size: PAGE });
    expect(() => connection.handler?.(DMA_READ, bytes(0n, 1n))).toThrowError(/EPERM/);
    expect([...(connection.handler?.(DMA_WRITE, bytes(0n, 1n, [1])) ?? [])]).toEqual([...bytes(0n, 1n)]);
  });
});

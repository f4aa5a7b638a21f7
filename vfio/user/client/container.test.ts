import { fstatSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { createSharedMemory } from '../../../sys/mapping.js';
import { VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import { VFIO_USER_DMA_MAP as MAP, VFIO_USER_DMA_UNMAP as UNMAP } from '../protocol.js';
import { FakeConnection } from '../testing/fake-connection.js';
import { UserContainerFile } from './container.js';

test('a map for reading only comes with a descriptor that cannot write the memory', () => {
  using memory = createSharedMemory('guest', 4096);
  using container = new UserContainerFile();
  const outcomes: string[] = [];
  const connection = new FakeConnection(({ fds: [fd] }) => {
    if (fd === undefined) return undefined;
    expect(fstatSync(fd).ino).toBe(fstatSync(memory.fd.number).ino);
    try {
      writeSync(fd, Uint8Array.of(1), 0, 1, 0);
      outcomes.push('written');
    } catch (error) {
      outcomes.push((error as NodeJS.ErrnoException).code ?? '');
    }
    return undefined;
  });
  container.add(connection.it);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const { hva: vaddr } = memory.mapping;
  for (const [flags, at] of [
    [1, 0n],
    [3, 0x1000n],
  ] as const)
    container.mapDma({ flags, vaddr, iova: iova(at), size: 4096n });
  expect(outcomes).toEqual(['EBADF', 'written']);
});

test('pages are no smaller than those of the servers, and no more than they take', () => {
  using memory = createSharedMemory('guest', 0x2_0000);
  using container = new UserContainerFile();
  const server = new FakeConnection();
  server.capabilities = { ...server.capabilities, pgsizes: 0x1_0000 | 0x20_0000, maxDmaMaps: 2 };
  container.add(server.it);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const { hva: vaddr } = memory.mapping;
  const map = (at: bigint, size: bigint) => container.mapDma({ flags: 3, vaddr, iova: iova(at), size });
  expect(container.getIommuInfo().pageSizes & 0x1_ffffn).toBe(0x1_0000n);
  expect(() => map(0n, 0x1000n)).toThrowError(
    /EINVAL\n.*0x0-0xfff: \/run\/fake.sock maps pages of 65536 bytes/,
  );
  expect(() => map(0x8000n, 0x1_0000n)).toThrowError(/EINVAL/);
  map(0n, 0x1_0000n);
  map(0x1_0000n, 0x1_0000n);
  expect(() => map(0x2_0000n, 0x1_0000n)).toThrowError(
    /ENOSPC\n.*fake.sock takes no more than 2 maps \(max_dma_maps\)/,
  );
});

test.each([
  [{ maxDmaMaps: 1 }, /ENOSPC\n.*there are 2, and \/run\/fake.sock takes 1 \(max_dma_maps\)/],
  [{ pgsizes: 0x1_0000 }, /EINVAL\n.*0x0-0xfff: \/run\/fake.sock maps pages of 65536 bytes/],
])(
  'a server that comes later is refused if its limits, %o, do not allow the maps there are',
  (limits, error) => {
    using memory = createSharedMemory('guest', 8192);
    using container = new UserContainerFile();
    const first = new FakeConnection();
    container.add(first.it);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    const { hva: vaddr } = memory.mapping;
    container.mapDma({ flags: 3, vaddr, iova: iova(0n), size: 4096n });
    container.mapDma({ flags: 3, vaddr, iova: iova(0x1000n), size: 4096n });
    const late = new FakeConnection();
    late.capabilities = { ...late.capabilities, ...limits };
    expect(() => container.add(late.it)).toThrowError(error);
    expect([late.sent, late.handler]).toEqual([[], undefined]);
    container.unmapDma({ flags: 0, iova: iova(0x1000n), size: 4096n });
    container.unmapDma({ flags: 0, iova: iova(0n), size: 4096n });
    container.add(late.it);
  },
);

test('a server that takes no descriptors gets maps without one: it accesses the memory by message', () => {
  using memory = createSharedMemory('guest', 4096);
  using container = new UserContainerFile();
  const server = new FakeConnection();
  server.capabilities = { ...server.capabilities, maxMsgFds: 0 };
  container.add(server.it);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  container.mapDma({ flags: 3, vaddr: memory.mapping.hva, iova: iova(0n), size: 4096n });
  expect(server.sent.map(({ fds }) => fds)).toEqual([[]]);
});

test('of several maps, those that are wrong, or that a server refuses, are errors of their own', () => {
  const refused = new SysError({ call: 'map', target: 'server', errno: errno.EPERM });
  using memory = createSharedMemory('guest', 4096);
  using container = new UserContainerFile();
  const first = new FakeConnection();
  const second = new FakeConnection(({ command, payload }) => {
    if (command === MAP && payload[17] === 0x20) throw refused;
    return undefined;
  });
  for (const each of [first, second]) container.add(each.it);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const map = (at: bigint, size = 4096n) => ({
    flags: 3,
    vaddr: memory.mapping.hva,
    iova: iova(at),
    size,
  });
  const errors = container.mapDmas([map(0n), map(0x1000n, 1n), map(0x2000n), map(0n), map(0x3000n)]);
  expect(errors.map((error) => error?.code)).toEqual([undefined, 'EINVAL', 'EPERM', 'EEXIST', undefined]);
  const starts = ({ sent }: FakeConnection, wanted: number) =>
    sent.filter(({ command }) => command === wanted).map(({ payload }) => payload[wanted === MAP ? 17 : 9]);
  expect([starts(first, MAP), starts(second, MAP)]).toEqual([
    [0, 0x20, 0x30],
    [0, 0x20, 0x30],
  ]);
  expect([starts(first, UNMAP), starts(second, UNMAP)]).toEqual([[0x20], []]);
  expect(container.getIommuInfo().dmaAvailable).toBe(65_533);
  expect(container.unmapDma({ flags: 0, iova: iova(0n), size: 0x4000n })).toBe(8192n);
});

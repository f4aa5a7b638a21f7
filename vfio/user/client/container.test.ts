import { fstatSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { createSharedMemory } from '../../../sys/mapping.js';
import { VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import type { Connection } from './connection.js';
import { UserContainerFile } from './container.js';

/** A server that takes each map, and what it is given. */
function scripted(pgsizes: number, take: (fds: readonly number[]) => void): Connection {
  const connection: Pick<Connection, 'isGone' | 'dmaTable' | 'setHandler' | 'ask'> & {
    capabilities: Partial<Connection['capabilities']>;
  } = {
    isGone: false,
    dmaTable: undefined,
    capabilities: { pgsizes, maxDmaMaps: 2 },
    setHandler: () => undefined,
    ask: (_command, _payload, fds = []) => {
      take(fds);
      return { payload: new Uint8Array(0), fds: [] };
    },
  };
  return connection as unknown as Connection;
}

test('a map for reading only comes with a descriptor that cannot write the memory', () => {
  using memory = createSharedMemory('guest', 4096);
  using container = new UserContainerFile();
  const outcomes: string[] = [];
  const connection = scripted(4096, ([fd]) => {
    if (fd === undefined) return;
    expect(fstatSync(fd).ino).toBe(fstatSync(memory.fd.number).ino);
    try {
      writeSync(fd, Uint8Array.of(1), 0, 1, 0);
      outcomes.push('written');
    } catch (error) {
      outcomes.push((error as NodeJS.ErrnoException).code ?? '');
    }
  });
  container.add(connection);
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
  container.add(scripted(0x1_0000 | 0x20_0000, () => undefined));
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const { hva: vaddr } = memory.mapping;
  const map = (at: bigint, size: bigint) => container.mapDma({ flags: 3, vaddr, iova: iova(at), size });
  expect(container.getIommuInfo().pageSizes & 0x1_ffffn).toBe(0x1_0000n);
  expect(() => map(0n, 0x1000n)).toThrowError(/EINVAL\n.*pages of 65536 bytes/);
  expect(() => map(0x8000n, 0x1_0000n)).toThrowError(/EINVAL/);
  map(0n, 0x1_0000n);
  map(0x1_0000n, 0x1_0000n);
  expect(() => map(0x2_0000n, 0x1_0000n)).toThrowError(/ENOSPC/);
});

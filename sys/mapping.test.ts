import { ftruncateSync } from 'node:fs';
import { expect, test } from 'vitest';
import { hva } from './address.js';
import { Fd } from './fd.js';
import {
  createSharedMemory,
  deferUnmapping,
  fileKind,
  findMapping,
  liveMappings,
  Mapping,
  MemoryView,
  unmap,
  viewOf,
} from './mapping.js';
import { mappedFiles } from './testing/open-fds.js';

test('two views of one address see each other without copying', () => {
  using memory = createSharedMemory('test', 65_536);
  const other = new MemoryView(memory.mapping.view.address, 65_536);
  memory.mapping.view.slice(4096, 4).set([1, 2, 3, 4]);
  expect([...other.slice(4096, 4)]).toEqual([1, 2, 3, 4]);
});

test('two mappings of one memfd are the same memory', () => {
  using memory = createSharedMemory('test', 8192);
  using second = Mapping.file(memory.fd, 4096, { offset: 4096 });
  memory.mapping.view.slice(4096, 1)[0] = 7;
  expect(second.view.slice(0, 1)[0]).toBe(7);
});

test('memory past 2 GiB is accessible, and an access across a window border is one slice', () => {
  const bytes = 5 * 2 ** 30;
  using memory = createSharedMemory('big', bytes);
  const at = 2 ** 31 - 8;
  memory.mapping.view.slice(at, 16).fill(0xab);
  expect(memory.mapping.view.slice(2 ** 31, 8)[7]).toBe(0xab);
  memory.mapping.view.slice(bytes - 1, 1)[0] = 1;
  expect(memory.mapping.view.slice(bytes - 2, 2)[1]).toBe(1);
});

test('a slice outside the memory is rejected', () => {
  using memory = createSharedMemory('test', 4096);
  for (const [at, length] of [
    [-1, 1],
    [4096, 1],
    [0, 4097],
    [4000, -1],
  ] as const) {
    expect(() => memory.mapping.view.slice(at, length)).toThrowError(RangeError);
  }
});

test('a mapping is found by any range inside it, and by no range that extends past it', () => {
  using mapping = Mapping.anonymous(8192);
  expect(findMapping(mapping.hva, 8192n)).toBe(mapping);
  expect(findMapping(hva(mapping.hva + 4096n), 4096n)).toBe(mapping);
  expect(findMapping(hva(mapping.hva + 4096n), 4097n)).toBeUndefined();
  expect(() => viewOf(hva(0x1000n), 1n, 'VFIO_IOMMU_MAP_DMA')).toThrowError(/VFIO_IOMMU_MAP_DMA .*EFAULT/);
});

test('disposing a mapping unmaps it', () => {
  const before = mappedFiles().length;
  const memory = createSharedMemory('gone', 4096);
  expect(mappedFiles().length).toBe(before + 1);
  memory[Symbol.dispose]();
  memory.mapping[Symbol.dispose]();
  expect(mappedFiles().length).toBe(before);
});

test('mapping a file that cannot be mapped reports its errno', () => {
  using fd = Fd.eventfd('bell');
  expect(() => Mapping.file(fd, 4096)).toThrowError(/mmap on bell: ENODEV/);
});

test('what other threads see stays mapped until it is taken, and a device’s shared memory does not', () => {
  const before = mappedFiles().length;
  const deferred = deferUnmapping();
  const memory = createSharedMemory('later', 4096);
  const seen = Mapping.file(memory.fd, 4096, { isSeenByThreads: true });
  expect(mappedFiles().length).toBe(before + 2);
  memory[Symbol.dispose]();
  seen[Symbol.dispose]();
  expect(liveMappings()).toBe(0);
  expect(mappedFiles().length).toBe(before + 1);
  unmap(deferred.take());
  expect(mappedFiles().length).toBe(before);
  deferred.end();
});

test('only a mapping of a memfd has a file to pass on, not that of a device', () => {
  using memory = createSharedMemory('mine', 4096);
  expect(memory.mapping.file).toEqual({ fd: memory.fd, offset: 0 });
  using zero = Fd.open('/dev/zero');
  using mapping = Mapping.file(zero, 4096);
  expect(mapping.file).toBeUndefined();
});

test('shared memory is sealed: it cannot shrink, or be sealed further', () => {
  using memory = createSharedMemory('mine', 4096);
  expect(fileKind(memory.fd)).toBe('sealed');
  expect(() => ftruncateSync(memory.fd.number, 0)).toThrowError(/EPERM/);
});

test('memory that may fault is known from memory that cannot, and what is no memory from both', () => {
  const MFD_ALLOW_SEALING = 2;
  const MFD_HUGETLB = 4;
  using huge = Fd.memfd('huge', MFD_ALLOW_SEALING | MFD_HUGETLB);
  using loose = Fd.memfd('loose', MFD_ALLOW_SEALING);
  using file = Fd.open('/proc/self/exe', 'r');
  using bell = Fd.eventfd();
  expect([huge, loose, file, bell].map(fileKind)).toEqual(['huge', 'file', 'file', 'other']);
});

import { expect, test } from 'vitest';
import { hva, iova } from '../../sys/address.js';
import { Scope } from '../../sys/scope.js';
import { type DmaMap, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { HostContainerFile } from './container.js';
import { hostProvider } from './index.js';
import { HostIommufdFile } from './iommufd.js';
import type { SystemFile } from './system.js';
import { FakeHost, FakeKernel } from './testing/index.js';

const MAP: DmaMap = {
  flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
  vaddr: hva(0x7f00_0000_0000n),
  iova: iova(0x1_0000_0000n),
  size: 0x20_0000n,
};

/** A file whose ioctls do nothing, with those that were made. */
function recorder() {
  const made: { request: number; argument: Uint8Array }[] = [];
  const unused = () => expect.unreachable();
  const file: SystemFile = {
    target: 'file',
    fd: 12,
    ioctl: ({ number }, argument) => {
      made.push({ request: number, argument: (argument as Uint8Array).slice() });
      return 0;
    },
    call: ({ number }, argument) => ({ fd: 12, request: number, argument }),
    pread: unused,
    pwrite: unused,
    mmap: unused,
    [Symbol.dispose]: () => {},
  };
  return { file, made };
}

function context(scope: Scope) {
  const host = scope.own(FakeHost.create());
  const system = new FakeKernel(host.roots.dev);
  return { host, system, made: { system, sysfs: host.sysfs, roots: host.roots } };
}

test('the map that another thread makes is the one that this thread would make', () => {
  using scope = new Scope();
  const { made: of } = context(scope);
  const { file, made } = recorder();
  const container = HostContainerFile.adopt(of, file);
  container.mapDma(MAP);
  expect(container.mapDmaCall?.(MAP)).toEqual({ fd: 12, ...made[0] });
  const iommufd = HostIommufdFile.adopt(of, file);
  iommufd.ioasMap(3, MAP);
  expect(iommufd.ioasMapCall?.(3, MAP)).toEqual({ fd: 12, ...made[1] });
  expect(made[1]?.argument).not.toEqual(made[0]?.argument);
});

test('of a kernel that is a script, no other thread can make one', () => {
  using scope = new Scope();
  const { groups, cdevs } = hostProvider(context(scope).made);
  expect(scope.own(groups.openContainer()).mapDmaCall).toBeUndefined();
  expect(scope.own(cdevs.openIommufd()).ioasMapCall).toBeUndefined();
});

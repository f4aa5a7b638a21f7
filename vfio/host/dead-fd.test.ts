import { expect, test } from 'vitest';
import { hva, iova } from '../../sys/address.js';
import { Fd } from '../../sys/fd.js';
import { ioctl, type Request } from '../../sys/ioctl.js';
import { VFIO_GFX_PLANE_TYPE_REGION, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_NONE } from '../uapi.js';
import { HostContainerFile } from './container.js';
import { hostContext } from './context.js';
import { HostDeviceFile } from './device.js';
import { HostGroupFile } from './group.js';
import { HostIommufdFile } from './iommufd.js';
import { linux, type SystemFile } from './system.js';

// Every wrapper must say which ioctl failed, on what, and why: shown on a descriptor that nobody has open.
const DEAD = 9_999;
const dead = (target: string): SystemFile => {
  const fd = Fd.adopt(DEAD, target);
  return {
    target,
    fd: DEAD,
    ioctl: (request: Request, argument = 0, about = target) => ioctl(fd, request, argument, about),
    pread: () => 0,
    pwrite: () => 0,
    mmap: () => {
      throw new Error('not used here');
    },
    [Symbol.dispose]: () => undefined,
  };
};

const context = hostContext();
const container = HostContainerFile.adopt(context, dead('container'));
const group = HostGroupFile.adopt(context, dead('group'));
const device = HostDeviceFile.adopt(dead('device'));
const TOKEN = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
const iommufd = HostIommufdFile.adopt(context, dead('iommufd'));
const map = { flags: 3, vaddr: hva(0x1000n), iova: iova(0n), size: 4096n };

test.each<[string, string, () => unknown]>([
  ['VFIO_GET_API_VERSION', 'container', () => container.getApiVersion()],
  ['VFIO_CHECK_EXTENSION', 'container', () => container.checkExtension(3)],
  ['VFIO_SET_IOMMU', 'container', () => container.setIommu(3)],
  ['VFIO_IOMMU_GET_INFO', 'container', () => container.getIommuInfo()],
  ['VFIO_IOMMU_MAP_DMA', 'container', () => container.mapDma(map)],
  ['VFIO_IOMMU_UNMAP_DMA', 'container', () => container.unmapDma({ ...map, flags: 0 })],
  ['VFIO_GROUP_GET_STATUS', 'group', () => group.getStatus()],
  ['VFIO_GROUP_SET_CONTAINER', 'group', () => group.setContainer(container)],
  ['VFIO_GROUP_UNSET_CONTAINER', 'group', () => group.unsetContainer()],
  ['VFIO_GROUP_GET_DEVICE_FD', '0000:01:00.0', () => group.getDeviceFd('0000:01:00.0 vf_token=x')],
  ['VFIO_DEVICE_GET_INFO', 'device', () => device.getInfo()],
  ['VFIO_DEVICE_GET_REGION_INFO', 'device', () => device.getRegionInfo(0)],
  ['VFIO_DEVICE_GET_REGION_INFO', 'device', () => device.getRegionIoFds(0)],
  ['VFIO_DEVICE_GET_IRQ_INFO', 'device', () => device.getIrqInfo(0)],
  [
    'VFIO_DEVICE_SET_IRQS',
    'device',
    () =>
      device.setIrqs({
        index: 0,
        flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
        start: 0,
        count: 0,
      }),
  ],
  ['VFIO_DEVICE_RESET', 'device', () => device.reset()],
  [
    'VFIO_DEVICE_QUERY_GFX_PLANE',
    'device',
    () => device.queryGfxPlane({ flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: 1 }),
  ],
  ['VFIO_DEVICE_GET_PCI_HOT_RESET_INFO', 'device', () => device.getPciHotResetInfo()],
  ['VFIO_DEVICE_PCI_HOT_RESET', 'device', () => device.pciHotReset([group])],
  ['VFIO_DEVICE_FEATURE', 'device', () => device.probeFeature(0)],
  ['VFIO_DEVICE_FEATURE', 'device', () => device.getFeature(1, new Uint8Array(8))],
  ['VFIO_DEVICE_FEATURE', 'device', () => device.setFeature(1, new Uint8Array(8))],
  ['VFIO_DEVICE_BIND_IOMMUFD', 'device', () => device.bindIommufd(iommufd)],
  ['VFIO_DEVICE_BIND_IOMMUFD', 'device', () => device.bindIommufd(iommufd, TOKEN)],
  ['VFIO_DEVICE_ATTACH_IOMMUFD_PT', 'device', () => device.attachIoas(1)],
  ['VFIO_DEVICE_DETACH_IOMMUFD_PT', 'device', () => device.detachIoas()],
  ['IOMMU_IOAS_ALLOC', 'iommufd', () => iommufd.ioasAlloc()],
  ['IOMMU_IOAS_MAP', 'iommufd', () => iommufd.ioasMap(1, map)],
  ['IOMMU_IOAS_UNMAP', 'iommufd', () => iommufd.ioasUnmap(1, map)],
  ['IOMMU_IOAS_IOVA_RANGES', 'iommufd', () => iommufd.ioasIovaRanges(1)],
  ['IOMMU_DESTROY', 'iommufd', () => iommufd.destroy(1)],
])('%s on a dead descriptor says so', (name, target, call) => {
  expect(call).toThrowError(new RegExp(`^${name} on ${target}[^:]*(:\\d.*)?: EBADF`));
});

test('a descriptor that is not open cannot be taken over', () => {
  expect(() => linux.adopt(DEAD, 'group')).toThrowError(/^fcntl F_SETFD on group: EBADF/);
  expect(() => linux.deviceNumber(DEAD)).toThrowError(/^fstat on fd 9999: EBADF/);
});

test('a file that was taken over is close-on-exec, reads at its positions, and is closed once', () => {
  const fd = Fd.memfd('region');
  const file = linux.adopt(fd.number, 'region');
  expect(file.pwrite(8, Uint8Array.of(1, 2, 3))).toBe(3);
  const data = new Uint8Array(4);
  expect(file.pread(9, data)).toBe(2);
  expect([...data]).toEqual([2, 3, 0, 0]);
  file[Symbol.dispose]();
  file[Symbol.dispose]();
  expect(() => file.pread(0, data)).toThrowError(/^fd on region: EBADF/);
});

test('a failed read or write names the device and the offset', () => {
  using file = linux.open('/dev/null');
  const writeOnly = linux.adopt(Fd.open('/dev/null', 'w').number, 'region');
  expect(() => writeOnly.pread(0x1_0000, new Uint8Array(4))).toThrowError(
    /^pread on region at 0x10000: EBADF/,
  );
  writeOnly[Symbol.dispose]();
  expect(linux.deviceNumber(file.fd)).toEqual({ major: 1, minor: 3 });
});

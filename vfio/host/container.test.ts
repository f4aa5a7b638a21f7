import { expect, test } from 'vitest';
import { decodeIommuInfo } from './container.js';
import { hostProvider } from './provider.js';
import { InfoCapHeader } from './structs.js';
import {
  CapDmaAvail,
  CapIovaRange,
  IovaRange,
  Type1Info,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
} from './structs-type1.js';
import { chain, FakeHost, FakeKernel } from './testing/index.js';

const body = (bytes: Uint8Array): Uint8Array => bytes.subarray(InfoCapHeader.size);

/** A reply with flags, one IOVA range, the number of maps that are left, and a capability nobody knows. */
function reply(flags: number): Uint8Array {
  const ranges = CapIovaRange.encode({ nr_iovas: 1 }, IovaRange.size);
  IovaRange.write(ranges, { start: 0x1000n, end: 0x1fffn }, CapIovaRange.size);
  return chain(Type1Info.encode({ flags, iova_pgsizes: 0x20_1000n }), Type1Info.offsets.cap_offset, [
    { id: 99, body: new Uint8Array(8) },
    { id: VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, body: body(ranges) },
    { id: VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, body: body(CapDmaAvail.encode({ avail: 7 })) },
  ]);
}

test('capabilities count if the flag says that there are any, and so do page sizes', () => {
  const iovaRanges = [{ start: 0x1000n, last: 0x1fffn }];
  expect(decodeIommuInfo(reply(VFIO_IOMMU_INFO_CAPS | VFIO_IOMMU_INFO_PGSIZES))).toEqual({
    pageSizes: 0x20_1000n,
    iovaRanges,
    dmaAvailable: 7,
  });
  expect(decodeIommuInfo(reply(VFIO_IOMMU_INFO_CAPS))).toEqual({
    pageSizes: 4096n,
    iovaRanges,
    dmaAvailable: 7,
  });
  const none = { iovaRanges: [], dmaAvailable: undefined };
  expect(decodeIommuInfo(reply(VFIO_IOMMU_INFO_PGSIZES))).toEqual({ pageSizes: 0x20_1000n, ...none });
  expect(decodeIommuInfo(reply(0))).toEqual({ pageSizes: 4096n, ...none });
});

test('a flag without a chain is no capability, and a chain that is cut short is malformed', () => {
  const empty = Type1Info.encode({ flags: VFIO_IOMMU_INFO_CAPS });
  expect(decodeIommuInfo(empty)).toMatchObject({ iovaRanges: [], dmaAvailable: undefined });
  const whole = reply(VFIO_IOMMU_INFO_CAPS);
  expect(() => decodeIommuInfo(whole.subarray(0, whole.length - 1))).toThrow();
});

test.each([
  ['EACCES', /^open on .*\/vfio\/vfio: EACCES\n {2}hint: /],
  ['EPERM', /^open on .*\/vfio\/vfio: EPERM\n {2}hint: /],
  ['ENOENT', /^open on .*\/vfio\/vfio: ENODEV\n {2}hint: modprobe/],
  ['ENODEV', /^open on .*\/vfio\/vfio: ENODEV\n {2}hint: modprobe/],
  ['ENXIO', /^open on .*\/vfio\/vfio: ENODEV\n {2}hint: modprobe/],
  ['EIO', /^open on .*\/vfio\/vfio: EIO$/],
] as const)('a container that cannot be opened (%s) says what helps, if anything does', (code, message) => {
  using host = FakeHost.create();
  const kernel = new FakeKernel(host.roots.dev);
  const { groups } = hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots });
  kernel.failNext(`open ${host.roots.dev}/vfio/vfio`, code);
  expect(() => groups.openContainer()).toThrow(message);
});

test('a provider without parts is of this host: its own /sys, /dev and kernel', () => {
  const provider = hostProvider();
  expect(() => provider.resolve('ffff:ff:1f.7', {})).toThrow(
    /^find on PCI device ffff:ff:1f\.7: ENODEV\n {2}hint: there is no \/sys\/bus\/pci\/devices\/ffff:ff:1f\.7/,
  );
  using host = FakeHost.create();
  host.addPci({ address: '0000:01:00.0', driver: 'vfio-pci', group: 26 });
  const other = hostProvider({ roots: host.roots });
  using device = other.resolve('0000:01:00.0', {});
  expect(device.group).toBe(26);
});

test.each([
  ['EACCES', /^open on .*\/iommu: EACCES\n {2}hint: .*chown "\$USER" .*\/iommu/],
  ['ENOENT', /^open on .*\/iommu: ENODEV\n {2}hint: /],
  ['ENODEV', /^open on .*\/iommu: ENODEV\n {2}hint: /],
  ['EIO', /^open on .*\/iommu: EIO$/],
] as const)('an iommufd that cannot be opened (%s) says what helps, if anything does', (code, message) => {
  using host = FakeHost.create();
  const kernel = new FakeKernel(host.roots.dev);
  const { cdevs } = hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots });
  kernel.failNext(`open ${host.roots.dev}/iommu`, code);
  expect(() => cdevs.openIommufd()).toThrow(message);
});

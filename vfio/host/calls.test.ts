import { statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hva, iova } from '../../sys/address.js';
import type { SysError } from '../../sys/error.js';
import { duplicateFd } from '../../sys/fd.js';
import { createSharedMemory, Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN } from '../feature.js';
import { regionOffset } from '../region-layout.js';
import { vfioConformance } from '../testing/conformance.js';
import {
  type ContainerFile,
  type GroupFile,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import type { HostDeviceFile } from './device.js';
import { type HostProvider, hostProvider } from './provider.js';
import { CapSparseMmap, InfoCapHeader, SparseMmapArea } from './structs.js';
import {
  type FakeDevice,
  type FakeDeviceShape,
  FakeDmaLogging,
  FakeHost,
  FakeKernel,
  FakeMigration,
  storedFeature,
} from './testing/index.js';

const ADDRESS = '0000:01:00.0';
const RW = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
const DMA_RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const TOKEN = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';

/** More areas than the first call has room for. */
function sparse(count: number): Uint8Array {
  const bytes = CapSparseMmap.encode({ nr_areas: count }, count * SparseMmapArea.size);
  for (let i = 0; i < count; i++) {
    const area = { offset: BigInt(i) * 8192n, size: 4096n };
    SparseMmapArea.write(bytes, area, CapSparseMmap.size + i * SparseMmapArea.size);
  }
  return bytes.subarray(InfoCapHeader.size);
}

const nic: FakeDeviceShape = {
  name: ADDRESS,
  group: 26,
  cdev: 'vfio3',
  flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
  regions: [
    {
      flags: RW | VFIO_REGION_INFO_FLAG_MMAP,
      size: 2 ** 20,
      bytes: new Uint8Array(2 ** 20),
      capabilities: [
        { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, body: sparse(100) },
        { id: VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, body: new Uint8Array(0) },
      ],
    },
    ...Array.from({ length: 6 }, () => ({ flags: 0, size: 0 })),
    { flags: RW, size: 256, bytes: Uint8Array.from({ length: 256 }, (_, i) => i) },
  ],
  irqs: [
    { flags: 7, count: 1 },
    { flags: 9, count: 1 },
    { flags: 1, count: 5 },
  ],
  hotReset: [
    { group: 26, bus: 1, devfn: 0 },
    { group: 27, bus: 1, devfn: 0x0b },
  ],
  features: new Map([[VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, storedFeature(16)]]),
};

interface World {
  readonly host: FakeHost;
  readonly kernel: FakeKernel;
  readonly provider: HostProvider;
  readonly device: FakeDevice;
}

function world(scope: Scope, shape: FakeDeviceShape = nic): World {
  const host = scope.own(FakeHost.create());
  host.addPci({ address: shape.name, driver: 'vfio-pci', group: shape.group });
  if (shape.cdev !== undefined) host.addCdev(`sys/devices/pci0000:00/${shape.name}`, shape.cdev, '511:3');
  const kernel = new FakeKernel(host.roots.dev);
  const device = kernel.addDevice(shape);
  return {
    host,
    kernel,
    device,
    provider: hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots }),
  };
}

function contained(scope: Scope, { provider }: World): { container: ContainerFile; group: GroupFile } {
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(26));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  return { container, group };
}

function openByGroup(scope: Scope, made: World, name = ADDRESS): HostDeviceFile {
  return scope.own(contained(scope, made).group.getDeviceFd(name)) as HostDeviceFile;
}

// The rules that the real kernel is held to in the lab; on the scripted one they show that every call arrives whole.
describe('conformance over the scripted kernel', () => {
  const scope = new Scope();
  let provider: HostProvider | undefined;
  let kernel: FakeKernel | undefined;
  let memory: Mapping | undefined;
  beforeAll(() => {
    const migration = scope.own(new FakeMigration(Uint8Array.from({ length: 5000 }, (_, i) => i)));
    const features = new Map([...migration.features, ...new FakeDmaLogging().features]);
    ({ provider, kernel } = world(scope, { ...nic, features }));
    memory = scope.own(Mapping.anonymous(16 * 4096));
  });
  afterAll(() => scope[Symbol.dispose]());
  const target = {
    get provider() {
      return provider as HostProvider;
    },
    get memory() {
      return memory as Mapping;
    },
    address: ADDRESS,
    unusedGroup: 9999,
  };
  for (const { name, run } of vfioConformance(target)) test(name, run);

  test('no file is left open by any case', () => {
    expect(kernel?.openFiles).toBe(0);
  });
});

test('what the container says of its IOMMU is decoded, with maps that are left', () => {
  using scope = new Scope();
  const { container } = contained(scope, world(scope));
  expect(container.getIommuInfo()).toEqual({
    pageSizes: 0x4020_1000n,
    iovaRanges: [
      { start: 0n, last: 0xfedf_ffffn },
      { start: 0xfef0_0000n, last: 0xffff_ffff_ffffn },
    ],
    dmaAvailable: 65_535,
  });
});

test('a region comes with all its capabilities, though they do not fit the first call', () => {
  using scope = new Scope();
  const made = world(scope);
  const file = openByGroup(scope, made);
  const region = file.getRegionInfo(0);
  expect(region).toMatchObject({ index: 0, size: 2 ** 20, offset: 0 });
  expect(region.capabilities.map(({ id }) => id)).toEqual([
    VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  ]);
  const [first] = region.capabilities;
  expect(first).toMatchObject({ areas: { length: 100, 99: { offset: 99 * 8192, size: 4096 } } });
  const calls = made.kernel.calls.filter(({ request }) => request === 'VFIO_DEVICE_GET_REGION_INFO');
  expect(calls).toHaveLength(2);
  expect(file.getRegionInfo(7)).toEqual({
    index: 7,
    flags: RW,
    size: 256,
    offset: regionOffset(7),
    capabilities: [],
  });
  expect(file.getRegionIoFds(0)).toEqual([]);
});

test('reads and writes reach the region at their offset', () => {
  using scope = new Scope();
  const file = openByGroup(scope, world(scope));
  const { offset } = file.getRegionInfo(7);
  const data = new Uint8Array(4);
  expect(file.read(offset + 16, data)).toBe(4);
  expect([...data]).toEqual([16, 17, 18, 19]);
  expect(file.write(offset + 16, Uint8Array.of(0xaa, 0xbb))).toBe(2);
  file.read(offset + 16, data);
  expect([...data]).toEqual([0xaa, 0xbb, 18, 19]);
  using mapping = file.mmap(0, 8192);
  expect(mapping.bytes).toBe(8192);
  expect(() => file.mmap(offset, 4096)).toThrowError(/^mmap on 0000:01:00\.0: EINVAL/);
});

test('interrupts are wired with every kind of data, and vectors may be left out', () => {
  using scope = new Scope();
  const made = world(scope);
  const file = openByGroup(scope, made);
  const trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
  const eventfds = VFIO_IRQ_SET_DATA_EVENTFD | trigger;
  const msix = { index: VFIO_PCI_MSIX_IRQ_INDEX, start: 1, count: 3 };
  file.setIrqs({ ...msix, flags: eventfds, data: [40, -1, 42] });
  file.setIrqs({ ...msix, flags: VFIO_IRQ_SET_DATA_BOOL | trigger, data: [1, 0, 1] });
  const intx = { index: VFIO_PCI_INTX_IRQ_INDEX, start: 0, count: 1 };
  file.setIrqs({ ...intx, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK });
  file.setIrqs({ ...intx, flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, data: [43] });
  file.setIrqs({ ...msix, flags: VFIO_IRQ_SET_DATA_NONE | trigger, start: 0, count: 0 });
  expect(made.device.irqSets).toEqual([
    { flags: eventfds, start: 1, count: 3, data: [40, -1, 42] },
    { flags: VFIO_IRQ_SET_DATA_BOOL | trigger, start: 1, count: 3, data: [1, 0, 1] },
    { flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK, start: 0, count: 1, data: [] },
    { flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, start: 0, count: 1, data: [43] },
    { flags: VFIO_IRQ_SET_DATA_NONE | trigger, start: 0, count: 0, data: [] },
  ]);
  expect(file.getIrqInfo(VFIO_PCI_MSIX_IRQ_INDEX)).toEqual({ index: 2, flags: 1, count: 5 });
});

test.each([
  ['too few values', { count: 2, data: [1] }],
  ['no values', { count: 1 }],
  ['a descriptor below -1', { count: 1, data: [-2] }],
  ['a fraction', { count: 1, data: [1.5] }],
  ['a negative start', { count: 1, start: -1, data: [1] }],
])('interrupt data with %s never reach the kernel', (_what, part) => {
  using scope = new Scope();
  const made = world(scope);
  const file = openByGroup(scope, made);
  const set = { index: 2, start: 0, flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, ...part };
  expect(() => file.setIrqs(set)).toThrowError(/^VFIO_DEVICE_SET_IRQS on 0000:01:00\.0, irq index 2: EINVAL/);
  expect(made.device.irqSets).toEqual([]);
});

test('a host that has fewer vectors says how many, and this is no success', () => {
  using scope = new Scope();
  const made = world(scope, { ...nic, vectors: 2 });
  const file = openByGroup(scope, made);
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  const set = { index: VFIO_PCI_MSIX_IRQ_INDEX, flags, start: 0, count: 3, data: [40, 41, 42] };
  const limit = {
    code: 'ENOSPC',
    available: 2,
    message: expect.stringContaining('the host has 2 of these 3 vectors, and enabled none'),
  };
  expect(() => file.setIrqs(set)).toThrowError(expect.objectContaining(limit));
  file.setIrqs({ ...set, count: 2, data: [40, 41] });
});

test('a positive result of a call that has none is an error of that call', () => {
  using scope = new Scope();
  const made = world(scope);
  const file = openByGroup(scope, made);
  for (const [call, use] of [
    ['VFIO_DEVICE_RESET', () => file.reset()],
    ['VFIO_DEVICE_GET_INFO', () => file.getInfo()],
    ['VFIO_DEVICE_GET_REGION_INFO', () => file.getRegionInfo(0)],
  ] as const) {
    made.kernel.answer(call, 1);
    expect(use).toThrowError(
      new RegExp(`^${call} on 0000:01:00\\.0: EPROTO\n {2}hint: the kernel returned 1`),
    );
  }
});

test('a device resets, alone or with its bus and the groups as proof', () => {
  using scope = new Scope();
  const made = world(scope);
  const { container, group } = contained(scope, made);
  const file = scope.own(group.getDeviceFd(ADDRESS)) as HostDeviceFile;
  file.reset();
  expect(file.getPciHotResetInfo()).toEqual({
    devices: [
      { address: '0000:01:00.0', group: 26 },
      { address: '0000:01:01.3', group: 27 },
    ],
  });
  const refused = /^VFIO_DEVICE_PCI_HOT_RESET on 0000:01:00\.0: EINVAL/;
  const other = made.kernel.addDevice({ name: '0000:01:01.3', group: 27 });
  made.host.addPci({ address: '0000:01:01.3', driver: 'vfio-pci', group: 27 });
  expect(() => file.pciHotReset()).toThrowError(refused);
  expect(() => file.pciHotReset([group])).toThrowError(refused);
  const elsewhere = { target: 'elsewhere', getStatus: () => 0 } as GroupFile;
  expect(() => file.pciHotReset([group, elsewhere])).toThrowError(/elsewhere is not a group of the kernel/);
  const container2 = { target: 'no group', fd: container.fd } as GroupFile;
  expect(() => file.pciHotReset([group, container2])).toThrowError(refused);
  expect([made.device.hotResets, other.hotResets]).toEqual([0, 0]);
  file.pciHotReset([group, scope.own(made.provider.groups.openGroup(27))]);
  expect([made.device.hotResets, other.hotResets]).toEqual([1, 1]);
  expect(made.device.resets).toBe(1);
});

test('a function without a vfio driver, and a device without slot and bus reset, keep the reset from happening', () => {
  using scope = new Scope();
  const made = world(scope);
  const { group } = contained(scope, made);
  const file = scope.own(group.getDeviceFd(ADDRESS)) as HostDeviceFile;
  expect(() => file.pciHotReset([group])).toThrowError(/PCI_HOT_RESET on .*EINVAL/);
  const { hotReset: _, ...alone } = nic;
  (made.device as { shape: FakeDeviceShape }).shape = alone;
  expect(() => file.getPciHotResetInfo()).toThrowError(/GET_PCI_HOT_RESET_INFO on .*ENODEV/);
  expect(() => file.pciHotReset([group])).toThrowError(/PCI_HOT_RESET on .*ENODEV/);
});

test('a display tells its plane, of the type that it has; what is no display says ENOTTY', () => {
  using scope = new Scope();
  const shown = { drm_format: 0x3432_5258, width: 1024, height: 768, stride: 4096, size: 3 << 20 };
  const plane = { ...shown, x_hot: 7, region_index: 16, flags: VFIO_GFX_PLANE_TYPE_REGION };
  const display = openByGroup(scope, world(scope, { ...nic, plane }));
  const primary = { flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: 1 };
  expect(display.queryGfxPlane(primary)).toEqual({
    ...{ drmFormat: 0x3432_5258, drmFormatMod: 0n, width: 1024, height: 768, stride: 4096, size: 3 << 20 },
    ...{ xPos: 0, yPos: 0, xHot: 7, yHot: 0, regionIndex: 16, offset: 0 },
  });
  const probe = { ...primary, flags: primary.flags | VFIO_GFX_PLANE_TYPE_PROBE };
  expect(display.queryGfxPlane(probe).drmFormat).toBe(0);
  expect(() => display.queryGfxPlane({ ...primary, flags: VFIO_GFX_PLANE_TYPE_DMABUF })).toThrowError(
    /^VFIO_DEVICE_QUERY_GFX_PLANE on 0000:01:00\.0: EINVAL\n.*dma-buf/,
  );
  expect(() => display.getGfxDmabuf(1)).toThrowError(/^VFIO_DEVICE_GET_GFX_DMABUF on .*dma-buf 1: ENOTTY/);
  using other = new Scope();
  expect(() => openByGroup(other, world(other)).queryGfxPlane(primary)).toThrowError(
    /: ENOTTY\n.*not a display/,
  );
});

test('a display with dma-bufs tells the id of the one that it shows, which is the caller’s then', () => {
  using scope = new Scope();
  using memory = createSharedMemory('picture', 4096);
  const dmabuf = (id: number) => (id === 7 ? duplicateFd(memory.fd.number, 'picture').number : undefined);
  const plane = { drm_format: 0x3432_5258, width: 4, height: 2, stride: 16, region_index: 7 };
  const shape = { ...nic, plane: { ...plane, flags: VFIO_GFX_PLANE_TYPE_DMABUF }, dmabuf };
  const display = openByGroup(scope, world(scope, shape));
  const shown = display.queryGfxPlane({ flags: VFIO_GFX_PLANE_TYPE_DMABUF, drmPlaneType: 1 });
  expect([shown.dmabufId, shown.regionIndex]).toEqual([7, 0]);
  using fd = display.getGfxDmabuf(7);
  expect(statSync(`/proc/self/fd/${fd.number}`).ino).toBe(statSync(`/proc/self/fd/${memory.fd.number}`).ino);
  expect(() => display.getGfxDmabuf(8)).toThrowError(/dma-buf 8: EINVAL\n.*query its plane again/);
});

test('a feature is probed, read and set; one that is missing is told from one that fails', () => {
  using scope = new Scope();
  const made = world(scope);
  const file = openByGroup(scope, made);
  const feature = VFIO_DEVICE_FEATURE_PCI_VF_TOKEN;
  expect(file.probeFeature(feature, VFIO_DEVICE_FEATURE_GET)).toBe(true);
  expect(file.probeFeature(9)).toBe(false);
  file.setVfToken(TOKEN);
  expect(Buffer.from(file.getFeature(feature, new Uint8Array(16))).toString('hex')).toBe(
    TOKEN.replaceAll('-', ''),
  );
  expect(() => file.getFeature(9, new Uint8Array(8))).toThrowError(
    /^VFIO_DEVICE_FEATURE on 0000:01:00\.0, feature 9: ENOTTY\n {2}hint: /,
  );
  expect(() => file.setVfToken('no uuid')).toThrowError(/EINVAL/);
  made.kernel.failNext('VFIO_DEVICE_FEATURE', 'EIO');
  expect(() => file.probeFeature(feature)).toThrowError(/EIO/);
});

test('a cdev is bound, attached, detached; what it resets with its bus is told by device ids', () => {
  using scope = new Scope();
  const made = world(scope);
  const iommufd = scope.own(made.provider.cdevs.openIommufd());
  const file = scope.own(made.provider.cdevs.openCdev('vfio3')) as HostDeviceFile;
  const devid = file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  file.attachIoas(ioas);
  const [address, second] = ['0000:01:00.0', '0000:01:01.3'];
  const own = { address, devid, isOwned: true };
  const unowned = { isOwned: false, devices: [own, { address: second, isOwned: false }] };
  expect(file.getPciHotResetInfo()).toMatchObject(unowned);
  made.host.addPci({ address: second, driver: 'vfio-pci', group: 27, cdev: 'vfio4' });
  const other = made.kernel.addDevice({ name: second, group: 27, cdev: 'vfio4' });
  expect(file.getPciHotResetInfo()).toMatchObject(unowned);
  expect(() => file.pciHotReset()).toThrowError(/PCI_HOT_RESET on .*EINVAL/);
  const otherFile = scope.own(made.provider.cdevs.openCdev('vfio4'));
  const otherId = otherFile.bindIommufd(iommufd);
  expect(file.getPciHotResetInfo()).toEqual({
    isOwned: true,
    devices: [own, { address: second, devid: otherId, isOwned: true }],
  });
  file.pciHotReset();
  expect([made.device.hotResets, other.hotResets]).toEqual([1, 1]);
  expect(() => iommufd.destroy(ioas)).toThrowError(/^IOMMU_DESTROY on .*iommu, object 2: EBUSY/);
  file.detachIoas();
  iommufd.destroy(ioas);
});

test('more IOVA ranges than there is room for are asked for again', () => {
  using scope = new Scope();
  const made = world(scope);
  const iommufd = scope.own(made.provider.cdevs.openIommufd());
  const fake = made.kernel.behind(iommufd.fd as number) as unknown as {
    ranges: { start: bigint; last: bigint }[];
  };
  fake.ranges = Array.from({ length: 300 }, (_, i) => ({
    start: BigInt(i) << 32n,
    last: (BigInt(i) << 32n) + 4095n,
  }));
  expect(iommufd.ioasIovaRanges(iommufd.ioasAlloc())).toEqual(fake.ranges);
});

test.each([
  { count: 2 ** 16, is: 2 ** 16 },
  { count: 2 ** 16 + 1, is: 'EMSGSIZE' },
])('of $count IOVA ranges, the reply is $is', ({ count, is }) => {
  using scope = new Scope();
  const made = world(scope);
  const iommufd = scope.own(made.provider.cdevs.openIommufd());
  const fake = made.kernel.behind(iommufd.fd as number) as unknown as { ranges: object[] };
  fake.ranges = new Array(count).fill({ start: 0n, last: 4095n });
  const ask = (): number | string => {
    try {
      return iommufd.ioasIovaRanges(iommufd.ioasAlloc()).length;
    } catch (error) {
      return (error as SysError).code;
    }
  };
  expect(ask()).toBe(is);
});

test('a VF whose physical function is in user space is opened with its token, by group and by cdev', () => {
  using scope = new Scope();
  const made = world(scope, { ...nic, vfToken: TOKEN });
  {
    using inner = new Scope();
    expect(() => openByGroup(inner, made)).toThrowError(
      /^VFIO_GROUP_GET_DEVICE_FD on 0000:01:00\.0: EACCES\n {2}hint: /,
    );
  }
  const device = scope.own(made.provider.resolve(ADDRESS, { 'vf-token': TOKEN }));
  {
    using inner = new Scope();
    openByGroup(inner, made, device.name).getInfo();
  }
  const iommufd = scope.own(made.provider.cdevs.openIommufd());
  scope.own(made.provider.cdevs.openCdev('vfio3')).bindIommufd(iommufd, device.vfToken);
});

test('a kernel before 6.18 takes a VF token by group only, and the error names its release and interface=group', () => {
  using scope = new Scope();
  const made = world(scope, { ...nic, vfToken: TOKEN });
  made.kernel.takesTokens = false;
  made.host.file('proc/sys/kernel/osrelease', '6.12.95-amd64\n');
  const device = scope.own(made.provider.resolve(ADDRESS, { 'vf-token': TOKEN }));
  const iommufd = scope.own(made.provider.cdevs.openIommufd());
  const bind = (): void => {
    using file = made.provider.cdevs.openCdev('vfio3');
    file.bindIommufd(iommufd, device.vfToken);
  };
  expect(bind).toThrowError(
    /^VFIO_DEVICE_BIND_IOMMUFD on .*: EINVAL\n {2}hint: .*6\.12\.95-amd64.* too old for a VF token by cdev.*6\.18.*interface=group$/,
  );
  // What another kernel refuses has other reasons.
  for (const release of ['6.18.0', '7.2.1-rc3', '']) {
    made.host.file('proc/sys/kernel/osrelease', release);
    expect(bind).toThrowError(/EINVAL\n {2}hint: it is already bound/);
  }
  openByGroup(scope, made, device.name).getInfo();
});

test('a file of another provider is refused before the kernel sees it', () => {
  using scope = new Scope();
  const made = world(scope);
  const group = scope.own(made.provider.groups.openGroup(26));
  const other = { target: 'container (core)' } as ContainerFile;
  expect(() => group.setContainer(other)).toThrowError(
    /SET_CONTAINER on .*26: EINVAL\n.*container \(core\) is not/,
  );
  const cdev = scope.own(made.provider.cdevs.openCdev('vfio3'));
  expect(() => cdev.bindIommufd({ target: 'iommufd (core)' } as never)).toThrowError(/BIND_IOMMUFD .*EINVAL/);
});

test('an answer that grows with every call, or is absurdly long, ends with EPROTO', () => {
  using scope = new Scope();
  const made = world(scope);
  const file = openByGroup(scope, made);
  const endless = { ...nic.regions?.[0], capabilities: [{ id: 9, body: new Uint8Array(2 ** 20) }] };
  (made.device as { shape: FakeDeviceShape }).shape = { ...nic, regions: [endless as never] };
  expect(() => file.getRegionInfo(0)).toThrowError(
    /^VFIO_DEVICE_GET_REGION_INFO on 0000:01:00\.0: EPROTO\n.*malformed: the reply is \d+ bytes long/,
  );
});

test('an address and a length that the kernel refuses are named, with what can be done', () => {
  using scope = new Scope();
  const { container } = contained(scope, world(scope));
  const map = { flags: DMA_RW, vaddr: hva(0x1000n), iova: iova(0xfee0_0000n), size: 4096n };
  expect(() => container.mapDma(map)).toThrowError(
    /^VFIO_IOMMU_MAP_DMA on .*vfio, IOVA 0xfee00000-0xfee00fff: EINVAL\n {2}hint: .*IOVA ranges/,
  );
});

test('remote memory is refused with ENOTSUP and its range, before the kernel would map address 0', () => {
  using scope = new Scope();
  const made = world(scope);
  const { container } = contained(scope, made);
  const iommufd = scope.own(made.provider.cdevs.openIommufd());
  const ioas = iommufd.ioasAlloc();
  const remote = { rw: () => undefined };
  const map = { flags: 3, remote, iova: iova(0x10_0000n), size: 0x2000n };
  expect(() => container.mapDma(map)).toThrowError(
    /^VFIO_IOMMU_MAP_DMA on .*, IOVA 0x100000-0x101fff: ENOTSUP\n.*its owner must share it/,
  );
  expect(() => iommufd.ioasMap(ioas, map)).toThrowError(
    /^IOMMU_IOAS_MAP on .* IOAS \d+, IOVA 0x100000-0x101fff: ENOTSUP/,
  );
  expect(() => iommufd.ioasMap(ioas, { flags: 3, remote, size: 0x2000n })).toThrowError(
    /IOAS \d+, 8192 bytes: ENOTSUP/,
  );
  const maps = made.kernel.calls.filter(({ request }) => /_MAP(_DMA)?$/.test(request));
  expect(maps).toEqual([]);
});

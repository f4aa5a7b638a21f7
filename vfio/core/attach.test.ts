import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { createSharedMemory, Mapping, PROT_READ } from '../../sys/mapping.js';
import { DmaTableReader } from '../dma-table.js';
import type { MdevType, VendorDriver, VendorEnvironment } from '../driver.js';
import { RecordingDevice } from '../testing/recording-device.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import {
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import { VfioCore } from './core.js';

const type: MdevType = { name: 'sample', description: 'a sample', deviceApi: 'vfio-pci', maxInstances: 2 };
const rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
const environment: VendorEnvironment = {
  eventThread: {
    run() {
      throw new Error('not used here');
    },
  },
};

function setUp() {
  const warnings: string[] = [];
  const core = new VfioCore({ ports: { warn: (text) => warnings.push(text) } });
  const memory = createSharedMemory('bar', 0x4000);
  const made: RecordingDevice[] = [];
  const driver: VendorDriver = {
    name: 'sample-driver',
    types: [type],
    create() {
      const ops = new RecordingDevice('sample', {
        regions: [
          { flags: rw, size: 0x10, capabilities: [] },
          {
            flags: rw | VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
            size: 0x4000,
            capabilities: [
              { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas: [{ offset: 0x1000, size: 0x2000 }] },
            ],
          },
          { flags: VFIO_REGION_INFO_FLAG_READ, size: 0x1000, capabilities: [] },
        ],
        irqs: [1, 8],
        onMmap: (_index, offset, bytes) => Mapping.file(memory.fd, bytes, { offset }),
      });
      made.push(ops);
      return { ops, counters: () => ({ packets: 3 }), [Symbol.dispose]: () => undefined };
    },
  };
  const registered = core.registerVendorDriver(driver, environment);
  const end = () => {
    registered[Symbol.dispose]();
    memory[Symbol.dispose]();
    core[Symbol.dispose]();
    expect(warnings).toEqual([]);
    expect([...core.live]).toEqual([]);
  };
  return { core, made, warnings, end, [Symbol.dispose]: end };
}

test('a mediated device goes the whole way from its type to its last close', () => {
  using world = setUp();
  const { core } = world;
  using ram = Mapping.anonymous(0x10000);
  const vm = new ScriptedVm('vm');
  const device = core.provider.resolve('sample', {});
  expect(device.counters?.()).toEqual({ packets: 3 });
  const group = core.provider.groups.openGroup(device.group);
  const container = core.provider.groups.openContainer();
  expect(() => core.provider.groups.openGroup(device.group)).toThrowError(
    /EBUSY\n {2}hint: the group is already open/,
  );
  expect(group.getStatus()).toBe(VFIO_GROUP_FLAGS_VIABLE);
  expect(() => container.setIommu(VFIO_TYPE1v2_IOMMU)).toThrowError(/EINVAL/);
  group.setContainer(container);
  expect(group.getStatus()).toBe(VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET);
  expect(() => group.getDeviceFd(device.name)).toThrowError(/EINVAL/);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  container.mapDma({ flags, vaddr: ram.hva, iova: iova(0x100000n), size: 0x10000n });
  expect(core.vfioFileOps.isValid(group)).toBe(true);
  core.vfioFileOps.setKvm(group, vm);
  expect(() => group.getDeviceFd('no-such')).toThrowError(/ENODEV/);
  const file = group.getDeviceFd(device.name);
  const [ops] = world.made;
  expect(ops?.open?.kvm).toBe(vm);
  expect(vm.references).toBe(2);

  ops?.open?.dma.rw(iova(0x100ff8n), new Uint8Array([1, 2, 3, 4]), true);
  expect([...ram.view.slice(0xff8, 4)]).toEqual([1, 2, 3, 4]);
  const reader = new DmaTableReader(ops?.open?.dma.table as SharedArrayBuffer);
  reader.enter();
  expect([...(reader.slice(0x100ff8, 4, PROT_READ) ?? [])]).toEqual([1, 2, 3, 4]);
  reader.leave();
  expect(container.unmapDma({ flags: 0, iova: iova(0x100000n), size: 0x10000n })).toBe(0x10000n);
  expect(ops?.calls).toEqual(['openDevice', 'dmaUnmap 0x100000 0x10000']);
  reader.enter();
  expect(reader.slice(0x100ff8, 4, PROT_READ)).toBeUndefined();
  reader.leave();

  expect(() => group.unsetContainer()).toThrowError(/EBUSY/);
  file[Symbol.dispose]();
  expect(vm.references).toBe(1);
  group.unsetContainer();
  core.vfioFileOps.setKvm(group, null);
  group[Symbol.dispose]();
  container[Symbol.dispose]();
  device[Symbol.dispose]();
});

test('each open file keeps the device, and the last close tells the driver', () => {
  using world = setUp();
  using device = world.core.provider.resolve('sample', {});
  using group = world.core.provider.groups.openGroup(device.group);
  using container = world.core.provider.groups.openContainer();
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const first = group.getDeviceFd(device.name);
  const second = group.getDeviceFd(device.name);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  expect(world.made[0]?.calls).toEqual(['openDevice']);
  expect(() => first.reset()).toThrowError(/EBADF/);
  second.reset();
  second[Symbol.dispose]();
  expect(world.made[0]?.calls).toEqual(['openDevice', 'reset', 'closeDevice']);
});

test('reads and writes end at the region, and go only where its flags allow', () => {
  using world = setUp();
  using device = world.core.provider.resolve('sample', {});
  using group = world.core.provider.groups.openGroup(device.group);
  using container = world.core.provider.groups.openContainer();
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  using file = group.getDeviceFd(device.name);
  expect(file.getRegionInfo(1)).toMatchObject({ index: 1, size: 0x4000, offset: 2 ** 40 });
  expect(file.getRegionInfo(1).capabilities).toHaveLength(1);
  expect(() => file.getRegionInfo(3)).toThrowError(/EINVAL/);
  expect(file.write(0xc, new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]))).toBe(4);
  const data = new Uint8Array(8);
  expect(file.read(0xe, data)).toBe(2);
  expect([...data]).toEqual([3, 4, 0, 0, 0, 0, 0, 0]);
  expect(() => file.read(0x10, data)).toThrowError(/EINVAL/);
  expect(() => file.read(3 * 2 ** 40, data)).toThrowError(/EINVAL/);
  expect(() => file.write(2 * 2 ** 40, data)).toThrowError(/EINVAL/);
  expect(file.read(2 * 2 ** 40, data)).toBe(8);
});

test('only sparse areas can be mapped', () => {
  using world = setUp();
  using device = world.core.provider.resolve('sample', {});
  using group = world.core.provider.groups.openGroup(device.group);
  using container = world.core.provider.groups.openContainer();
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  using file = group.getDeviceFd(device.name);
  const bar = file.getRegionInfo(1).offset;
  for (const [at, bytes] of [
    [0, 0x1000],
    [0x2000, 0x2000],
    [0x1800, 0x800],
    [0x1000, 0],
  ] as const) {
    expect(() => file.mmap(bar + at, bytes)).toThrowError(/EINVAL/);
  }
  expect(() => file.mmap(0, 0x1000)).toThrowError(/EINVAL/);
  using mapping = file.mmap(bar + 0x1000, 0x2000);
  expect(mapping.bytes).toBe(0x2000);
});

test('interrupts are checked before the driver sees them', () => {
  using world = setUp();
  using device = world.core.provider.resolve('sample', {});
  using group = world.core.provider.groups.openGroup(device.group);
  using container = world.core.provider.groups.openContainer();
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  using file = group.getDeviceFd(device.name);
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  expect(file.getIrqInfo(1).count).toBe(8);
  expect(() => file.setIrqs({ index: 1, flags, start: 7, count: 2, data: [-1, -1] })).toThrowError(/EINVAL/);
  expect(world.made[0]?.irqSet).toBeUndefined();
  file.setIrqs({ index: 1, flags, start: 6, count: 2, data: [-1, -1] });
  expect(world.made[0]?.irqSet).toMatchObject({ start: 6, count: 2 });
});

test('a type has as many instances as its driver says', () => {
  using world = setUp();
  using first = world.core.provider.resolve('sample', {});
  using second = world.core.provider.resolve('sample', {});
  expect(second.group).not.toBe(first.group);
  expect(() => world.core.provider.resolve('sample', {})).toThrowError(/EUSERS/);
});

test('a cdev gives the same device without a group', () => {
  using world = setUp();
  using ram = Mapping.anonymous(0x10000);
  using device = world.core.provider.resolve('sample', {});
  using iommufd = world.core.provider.cdevs.openIommufd();
  using file = world.core.provider.cdevs.openCdev(device.cdev as string);
  expect(() => file.getInfo()).toThrowError(/EINVAL/);
  file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  iommufd.ioasMap(ioas, { flags, vaddr: ram.hva, iova: iova(0x2000n), size: 0x10000n });
  file.attachIoas(ioas);
  world.made[0]?.open?.dma.rw(iova(0x2000n), new Uint8Array([9]), true);
  expect(ram.view.slice(0, 1)[0]).toBe(9);
  expect(() => iommufd.destroy(ioas)).toThrowError(/EBUSY/);
  file.detachIoas();
  iommufd.destroy(ioas);
});

/**
 * The rules of the VFIO uAPI as a table of cases. Every provider must pass them, the in-process core as well as the
 * Linux kernel. A case closes every file that it opens, and restores the device's state.
 */
import assert from 'node:assert/strict';
import { type Hva, type Iova, iova } from '../../sys/address.js';
import { isErrno } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MIGRATION } from '../feature.js';
import { groupsOf } from '../interfaces.js';
import {
  type ContainerFile,
  type DeviceFile,
  VFIO_API_VERSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
} from '../uapi.js';
import { Bench, type Code, type ConformanceTarget, fails, PAGE, type Rule, RW } from './conformance-bench.js';
import { featureRules } from './conformance-features.js';
import { hotResetCdevRules, hotResetGroupRules } from './conformance-hot-reset.js';

export type { ConformanceTarget } from './conformance-bench.js';

/** One rule: a sentence that can be false, and the check that it is true. */
export interface ConformanceCase {
  /** The rule as a sentence. */
  readonly name: string;
  /** @throws AssertionError */
  run(): void;
}

/** Whether a map of remote memory was accepted; the only other outcome is ENOTSUP. */
function takesRemote(map: () => unknown): boolean {
  try {
    map();
    return true;
  } catch (error) {
    assert.ok(isErrno(error, 'ENOTSUP'), String(error));
    return false;
  }
}

const unmap = (container: ContainerFile, at: bigint, bytes: bigint, flags = 0): bigint =>
  container.unmapDma({ flags, iova: at as Iova, size: bytes });

const groupRules: readonly Rule[] = [
  [
    'a container has API version 0, TYPE1v2 and no extension 9999; without groups it cannot promise DMA_CC',
    (bench) => {
      const container = bench.container();
      assert.equal(container.getApiVersion(), VFIO_API_VERSION);
      assert.ok(container.checkExtension(VFIO_TYPE1v2_IOMMU) > 0);
      assert.equal(container.checkExtension(9999), 0);
      assert.equal(container.checkExtension(VFIO_DMA_CC_IOMMU), 0);
    },
  ],
  [
    'a group that is not there is ENODEV, one that is open is EBUSY',
    (bench) => {
      const { unusedGroup } = bench.target;
      if (unusedGroup !== undefined)
        fails('ENODEV', 'open', () => groupsOf(bench.provider).openGroup(unusedGroup));
      bench.group();
      fails('EBUSY', 'open twice', () => bench.group());
    },
  ],
  [
    'a group says that it is viable, and whether it is in a container',
    (bench) => {
      const group = bench.group();
      const viable = VFIO_GROUP_FLAGS_VIABLE;
      assert.equal(group.getStatus(), viable);
      group.setContainer(bench.container());
      assert.equal(group.getStatus(), viable | VFIO_GROUP_FLAGS_CONTAINER_SET);
      group.unsetContainer();
      assert.equal(group.getStatus(), viable);
    },
  ],
  [
    'a group enters one container at a time, and leaves only one it is in',
    (bench) => {
      const [group, container] = [bench.group(), bench.container()];
      fails('EINVAL', 'UNSET_CONTAINER without', () => group.unsetContainer());
      group.setContainer(container);
      fails('EINVAL', 'SET_CONTAINER twice', () => group.setContainer(container));
    },
  ],
  [
    'the IOMMU is set once, of a type that is there, when a group is in the container',
    (bench) => {
      const [container, group] = [bench.container(), bench.group()];
      fails('EINVAL', 'SET_IOMMU without a group', () => container.setIommu(VFIO_TYPE1v2_IOMMU));
      group.setContainer(container);
      fails('ENODEV', 'SET_IOMMU of type 9999', () => container.setIommu(9999));
      fails('ENODEV', 'SET_IOMMU of DMA_CC', () => container.setIommu(VFIO_DMA_CC_IOMMU));
      if (container.checkExtension(VFIO_UNMAP_ALL) > 0)
        fails('EINVAL', 'SET_IOMMU of UNMAP_ALL', () => container.setIommu(VFIO_UNMAP_ALL));
      container.setIommu(VFIO_TYPE1v2_IOMMU);
      fails('EINVAL', 'SET_IOMMU twice', () => container.setIommu(VFIO_TYPE1v2_IOMMU));
    },
  ],
  [
    'before the IOMMU is set nothing can be asked of it or mapped',
    (bench) => {
      const [container, group] = [bench.container(), bench.group()];
      group.setContainer(container);
      fails('EINVAL', 'GET_INFO', () => container.getIommuInfo());
      fails('EINVAL', 'MAP_DMA', () => bench.map(container, 0n, 1n));
    },
  ],
  [
    'a device is opened by its name, in a contained group with an IOMMU',
    (bench) => {
      const [container, group] = [bench.container(), bench.group()];
      fails('EINVAL', 'GET_DEVICE_FD, not contained', () => group.getDeviceFd(bench.device.name));
      group.setContainer(container);
      fails('EINVAL', 'GET_DEVICE_FD without an IOMMU', () => group.getDeviceFd(bench.device.name));
      container.setIommu(VFIO_TYPE1v2_IOMMU);
      fails('ENODEV', 'GET_DEVICE_FD of another name', () => group.getDeviceFd('ffff:ff:1f.7'));
      bench.scope.own(group.getDeviceFd(bench.device.name));
    },
  ],
  [
    'a group with an open device stays in its container',
    (bench) => {
      const { group } = bench.contained();
      const file = group.getDeviceFd(bench.device.name);
      fails('EBUSY', 'UNSET_CONTAINER', () => group.unsetContainer());
      file[Symbol.dispose]();
      group.unsetContainer();
    },
  ],
  [
    'pages of 4096 bytes can be mapped, and the count of maps left goes down and up',
    (bench) => {
      const { container } = bench.contained();
      const info = container.getIommuInfo();
      assert.notEqual(info.pageSizes & PAGE, 0n);
      bench.map(container, 0n, 1n);
      if (info.dmaAvailable !== undefined)
        assert.equal(container.getIommuInfo().dmaAvailable, info.dmaAvailable - 1);
      assert.equal(unmap(container, 0n, PAGE), PAGE);
      assert.equal(container.getIommuInfo().dmaAvailable, info.dmaAvailable);
    },
  ],
  [
    'MAP_DMA refuses flags, sizes and addresses that make no sense with EINVAL',
    (bench) => {
      const { container } = bench.contained();
      const map = { flags: RW, vaddr: bench.vaddr, iova: iova(0n), size: PAGE };
      const bad = [
        { ...map, flags: 0 },
        { ...map, flags: RW | 0x80 },
        { ...map, size: 0n },
        { ...map, size: 100n },
        { ...map, iova: iova(0x800n) },
        { ...map, vaddr: (bench.vaddr + 1n) as Hva },
      ];
      for (const each of bad) fails('EINVAL', JSON.stringify(each, show), () => container.mapDma(each));
      fails(['EINVAL', 'EOVERFLOW'], 'wrapping', () =>
        container.mapDma({ ...map, iova: iova((1n << 64n) - PAGE), size: 2n * PAGE }),
      );
      assert.equal(unmap(container, 0n, 1n << 30n), 0n);
    },
  ],
  [
    'remote memory is mapped for devices that can access it, or refused with ENOTSUP',
    (bench) => {
      const { container } = bench.contained();
      const remote = { rw: () => assert.fail('nobody accesses it') };
      const isMapped = takesRemote(() =>
        container.mapDma({ flags: RW, remote, iova: iova(PAGE), size: PAGE }),
      );
      assert.equal(unmap(container, 0n, 16n * PAGE), isMapped ? PAGE : 0n);
    },
  ],
  [
    'a map that overlaps another is EEXIST, next to it is none',
    (bench) => {
      const { container } = bench.contained();
      bench.map(container, 4n * PAGE, 4n);
      for (const at of [3n, 4n, 6n, 7n])
        fails('EEXIST', `page ${at}`, () => bench.map(container, at * PAGE, 2n));
      fails('EEXIST', 'around it', () => bench.map(container, 0n, 16n));
      bench.map(container, 2n * PAGE, 2n);
      bench.map(container, 8n * PAGE, 2n);
      assert.equal(unmap(container, 0n, 16n * PAGE), 8n * PAGE);
    },
  ],
  [
    'UNMAP_DMA takes whole maps: in part is EINVAL, several are one sum, none is 0',
    (bench) => {
      const { container } = bench.contained();
      bench.map(container, 4n * PAGE, 4n);
      bench.map(container, 12n * PAGE, 2n);
      for (const [at, pages] of [
        [4n, 2n],
        [5n, 3n],
        [6n, 1n],
        [0n, 6n],
      ] as const) {
        fails('EINVAL', `pages ${at} to ${at + pages}`, () => unmap(container, at * PAGE, pages * PAGE));
      }
      for (const [at, bytes] of [
        [0x800n, PAGE],
        [0n, 100n],
        [0n, 0n],
      ] as const) {
        fails('EINVAL', `0x${at.toString(16)}, ${bytes} bytes`, () => unmap(container, at, bytes));
      }
      fails('EINVAL', 'unknown flag', () => unmap(container, 0n, PAGE, 0x80));
      assert.equal(unmap(container, 0n, 4n * PAGE), 0n);
      assert.equal(unmap(container, 0n, 16n * PAGE), 6n * PAGE);
      assert.equal(unmap(container, 0n, 16n * PAGE), 0n);
    },
  ],
  [
    'UNMAP_ALL takes no range, and leaves nothing',
    (bench) => {
      const { container } = bench.contained();
      if (container.checkExtension(VFIO_UNMAP_ALL) === 0) return;
      bench.map(container, 0n, 2n);
      bench.map(container, 8n * PAGE, 2n);
      fails('EINVAL', 'with a range', () => unmap(container, 0n, PAGE, VFIO_DMA_UNMAP_FLAG_ALL));
      assert.equal(unmap(container, 0n, 0n, VFIO_DMA_UNMAP_FLAG_ALL), 4n * PAGE);
      assert.equal(unmap(container, 0n, 0n, VFIO_DMA_UNMAP_FLAG_ALL), 0n);
    },
  ],
  [
    'the last group to leave takes the IOMMU and all maps with it',
    (bench) => {
      const { group, container } = bench.contained();
      bench.map(container, 0n, 4n);
      group.unsetContainer();
      fails('EINVAL', 'UNMAP_DMA', () => unmap(container, 0n, 4n * PAGE));
      group.setContainer(container);
      container.setIommu(VFIO_TYPE1v2_IOMMU);
      assert.equal(unmap(container, 0n, 4n * PAGE), 0n);
    },
  ],
  [
    'a group cannot be opened again while a device keeps its old container',
    (bench) => {
      const { group } = bench.contained();
      const file = group.getDeviceFd(bench.device.name);
      group[Symbol.dispose]();
      fails('EBUSY', 'open', () => bench.group());
      file[Symbol.dispose]();
      bench.group();
    },
  ],
];

const deviceRules: readonly Rule[] = [
  [
    'regions and interrupts are counted, and an index past the last is EINVAL',
    (bench) => {
      const file = bench.file();
      const { numRegions, numIrqs } = file.getInfo();
      for (let i = 0; i < numRegions; i++) {
        // The VGA region is the only one below the last that a device may lack.
        if (i < 8) assert.equal(file.getRegionInfo(i).index, i);
      }
      for (const index of [numRegions, 9999])
        fails('EINVAL', `region ${index}`, () => file.getRegionInfo(index));
      for (const index of [numIrqs, 9999]) fails('EINVAL', `irq ${index}`, () => file.getIrqInfo(index));
    },
  ],
  [
    'regions lie apart in the device file',
    (bench) => {
      const file = bench.file();
      const regions = Array.from({ length: Math.min(file.getInfo().numRegions, 8) }, (_, i) =>
        file.getRegionInfo(i),
      );
      const used = regions.filter(({ size }) => size > 0).sort((a, b) => a.offset - b.offset);
      for (const [i, { offset, size }] of used.entries()) {
        const next = used[i + 1];
        if (next !== undefined) assert.ok(offset + size <= next.offset);
      }
    },
  ],
  [
    // Drivers differ on a read across the end: vfio-pci fails it, the core truncates it, mtty completes it.
    'the last bytes of a region can be read, and a read across its end fails only as a bad address',
    (bench) => {
      const file = bench.file();
      const config = file.getRegionInfo(Math.min(7, file.getInfo().numRegions - 1));
      assert.notEqual(config.flags & VFIO_REGION_INFO_FLAG_READ, 0);
      const data = new Uint8Array(8);
      assert.equal(file.read(config.offset, data.subarray(0, 4)), 4);
      assert.equal(file.read(config.offset + config.size - 4, data.subarray(0, 4)), 4);
      try {
        assert.ok(file.read(config.offset + config.size - 4, data) >= 4);
      } catch (error) {
        assert.ok(isErrno(error, 'EINVAL') || isErrno(error, 'EFAULT'), String(error));
      }
    },
  ],
  [
    'a region without MMAP cannot be mapped',
    (bench) => {
      const file = bench.file();
      for (let i = 0; i < Math.min(file.getInfo().numRegions, 8); i++) {
        const { flags, size, offset } = file.getRegionInfo(i);
        if (size === 0 || (flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0) continue;
        fails(['EINVAL', 'ENODEV' as Code], `region ${i}`, () => file.mmap(offset, 4096)[Symbol.dispose]());
      }
    },
  ],
  [
    'SET_IRQS that does not fit its index is EINVAL',
    (bench) => {
      const file = bench.file();
      const { numIrqs } = file.getInfo();
      const trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
      const none = VFIO_IRQ_SET_DATA_NONE | trigger;
      fails('EINVAL', 'no such index', () =>
        file.setIrqs({ index: numIrqs, flags: none, start: 0, count: 1 }),
      );
      for (let index = 0; index < numIrqs; index++) {
        const { count } = infoOrNone(file, index);
        if (count === 0) continue;
        const one = { index, flags: none, start: 0, count: 1 };
        fails('EINVAL', 'start', () => file.setIrqs({ ...one, start: count }));
        fails('EINVAL', 'count', () => file.setIrqs({ ...one, count: count + 1 }));
        fails('EINVAL', 'both', () => file.setIrqs({ ...one, start: 1, count: 0xffff_ffff }));
        fails('EINVAL', 'flags', () => file.setIrqs({ ...one, flags: none | 0x80 }));
        fails('EINVAL', 'no data type', () => file.setIrqs({ ...one, flags: trigger }));
        const two = VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD | trigger;
        fails('EINVAL', 'two data types', () => file.setIrqs({ ...one, flags: two, data: [1] }));
      }
    },
  ],
];

const cdevRules: readonly Rule[] = [
  [
    'a cdev does nothing before it is bound, and everything after',
    (bench) => {
      const { cdev } = bench.cdev();
      fails('EINVAL', 'GET_INFO', () => cdev.getInfo());
      fails('EINVAL', 'read', () => cdev.read(0, new Uint8Array(4)));
      fails('EINVAL', 'SET_IRQS', () => cdev.setIrqs({ index: 0, flags: 0x21, start: 0, count: 1 }));
      fails('EINVAL', 'ATTACH', () => cdev.attachIoas(1));
      fails('EINVAL', 'FEATURE', () =>
        cdev.deviceFeature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION),
      );
      cdev.bindIommufd(bench.iommufd());
      cdev.getInfo();
    },
  ],
  [
    'a cdev is bound once, and so is its device',
    (bench) => {
      const [first, second] = [bench.cdev().cdev, bench.cdev().cdev];
      const iommufd = bench.iommufd();
      first.bindIommufd(iommufd);
      fails('EINVAL', 'BIND twice', () => first.bindIommufd(iommufd));
      fails('EINVAL', 'BIND of a second file', () => second.bindIommufd(iommufd));
    },
  ],
  [
    'an IOAS maps, unmaps, and is not destroyed under a device',
    (bench) => {
      const iommufd = bench.iommufd();
      const { cdev } = bench.cdev();
      cdev.bindIommufd(iommufd);
      const ioas = iommufd.ioasAlloc();
      cdev.attachIoas(ioas);
      const at = iova(0x10_0000n);
      const map = { flags: RW, vaddr: bench.vaddr, iova: at, size: 4n * PAGE };
      assert.equal(iommufd.ioasMap(ioas, map), at);
      fails('EEXIST', 'overlap', () => iommufd.ioasMap(ioas, map));
      fails('ENOENT', 'in part', () => iommufd.ioasUnmap(ioas, { iova: at, size: PAGE }));
      fails('EBUSY', 'destroy', () => iommufd.destroy(ioas));
      assert.equal(iommufd.ioasUnmap(ioas, { iova: at, size: 4n * PAGE }), 4n * PAGE);
      fails('ENOENT', 'unmap twice', () => iommufd.ioasUnmap(ioas, { iova: at, size: 4n * PAGE }));
      cdev.detachIoas();
      iommufd.destroy(ioas);
      fails('ENOENT', 'destroy twice', () => iommufd.destroy(ioas));
    },
  ],
  [
    'an IOAS maps remote memory for devices that can access it, or refuses it with ENOTSUP',
    (bench) => {
      const iommufd = bench.iommufd();
      const ioas = iommufd.ioasAlloc();
      const [at, size] = [iova(0x10_0000n), PAGE];
      const remote = { rw: () => assert.fail('nobody accesses it') };
      const isMapped = takesRemote(() => iommufd.ioasMap(ioas, { flags: RW, remote, iova: at, size }));
      if (isMapped) assert.equal(iommufd.ioasUnmap(ioas, { iova: at, size }), size);
      else fails('ENOENT', 'unmap', () => iommufd.ioasUnmap(ioas, { iova: at, size }));
      iommufd.destroy(ioas);
    },
  ],
  [
    'IOAS_MAP refuses flags, ranges and directions that make no sense, IOAS_UNMAP an empty range',
    (bench) => {
      const iommufd = bench.iommufd();
      const ioas = iommufd.ioasAlloc();
      const max = (1n << 64n) - 1n;
      const map = { flags: RW, vaddr: bench.vaddr, iova: iova(0x10_0000n), size: PAGE };
      fails('ENOTSUP', 'unknown flag', () => iommufd.ioasMap(ioas, { ...map, flags: RW | 0x80 }));
      fails('EOVERFLOW', 'size', () => iommufd.ioasMap(ioas, { ...map, size: max }));
      fails('EINVAL', 'no direction', () => iommufd.ioasMap(ioas, { ...map, flags: 0 }));
      fails('EINVAL', 'empty', () => iommufd.ioasMap(ioas, { ...map, size: 0n }));
      fails('ENOENT', 'no such IOAS', () => iommufd.ioasMap(0xffff, map));
      fails('EINVAL', 'unmap of nothing', () => iommufd.ioasUnmap(ioas, { iova: iova(0n), size: 0n }));
      fails('EOVERFLOW', 'unmap past the end', () =>
        iommufd.ioasUnmap(ioas, { iova: iova(PAGE), size: max }),
      );
      iommufd.destroy(ioas);
    },
  ],
  [
    'an IOAS has one range and takes any alignment while nothing is attached, and whole pages after',
    (bench) => {
      const iommufd = bench.iommufd();
      const { cdev } = bench.cdev();
      cdev.bindIommufd(iommufd);
      const ioas = iommufd.ioasAlloc();
      assert.deepEqual(iommufd.ioasIovaRanges(ioas), [{ start: 0n, last: (1n << 64n) - 1n }]);
      const map = { flags: RW, vaddr: bench.vaddr, iova: iova(0x10_0008n), size: 16n };
      assert.equal(iommufd.ioasMap(ioas, map), 0x10_0008n);
      fails('EADDRINUSE', 'ATTACH', () => cdev.attachIoas(ioas));
      assert.equal(iommufd.ioasUnmap(ioas, { iova: iova(0x10_0000n), size: PAGE }), 16n);
      cdev.attachIoas(ioas);
      fails('EINVAL', 'misaligned', () => iommufd.ioasMap(ioas, map));
      cdev.detachIoas();
      iommufd.destroy(ioas);
    },
  ],
  [
    'an IOAS finds a free range itself',
    (bench) => {
      const iommufd = bench.iommufd();
      const ioas = iommufd.ioasAlloc();
      const map = { flags: RW, vaddr: bench.vaddr, size: 4n * PAGE };
      const first = iommufd.ioasMap(ioas, map);
      const second = iommufd.ioasMap(ioas, map);
      assert.notEqual(first, second);
      assert.equal(iommufd.ioasUnmap(ioas, { iova: iova(0n), size: (1n << 64n) - 1n }), 8n * PAGE);
      iommufd.destroy(ioas);
    },
  ],
];

const bothRules: readonly Rule[] = [
  [
    'an open group keeps the cdev from being bound, and a bound cdev the group from being opened',
    (bench) => {
      const { cdev } = bench.cdev();
      const iommufd = bench.iommufd();
      const group = groupsOf(bench.provider).openGroup(bench.device.group);
      fails('EBUSY', 'BIND', () => cdev.bindIommufd(iommufd));
      group[Symbol.dispose]();
      cdev.bindIommufd(iommufd);
      fails('EBUSY', 'open', () => bench.group());
    },
  ],
];

/** The rules that apply to a provider: `for (const { name, run } of vfioConformance(target)) test(name, run)`. */
export function vfioConformance(target: ConformanceTarget): readonly ConformanceCase[] {
  const { hasGroups = true, hasCdev = true } = target;
  const rules = [
    ...(hasGroups ? [...groupRules, ...hotResetGroupRules] : []),
    ...deviceRules,
    ...featureRules,
    ...(hasCdev ? [...cdevRules, ...hotResetCdevRules] : []),
    ...(hasGroups && hasCdev ? bothRules : []),
  ];
  return rules.map(([name, run]) => ({
    name,
    run() {
      using scope = new Scope();
      run(new Bench(target, scope));
    },
  }));
}

function infoOrNone(file: DeviceFile, index: number): { readonly count: number } {
  try {
    return file.getIrqInfo(index);
  } catch {
    return { count: 0 }; // the device lacks the index, such as a conventional PCI device the error interrupt
  }
}

const show = (_key: string, value: unknown): unknown =>
  typeof value === 'bigint' ? `0x${value.toString(16)}` : value;

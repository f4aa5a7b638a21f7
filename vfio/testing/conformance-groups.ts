/** Rules of groups and containers. */
import assert from 'node:assert/strict';
import { type Hva, type Iova, iova } from '../../sys/address.js';
import { groupsOf } from '../interfaces.js';
import {
  type ContainerFile,
  VFIO_API_VERSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
} from '../uapi.js';
import { fails, PAGE, type Rule, RW, takesRemote } from './conformance-bench.js';

const unmap = (container: ContainerFile, at: bigint, bytes: bigint, flags = 0): bigint =>
  container.unmapDma({ flags, iova: at as Iova, size: bytes });

/** What holds of every provider with groups. */
export const groupRules: readonly Rule[] = [
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

const show = (_key: string, value: unknown): unknown =>
  typeof value === 'bigint' ? `0x${value.toString(16)}` : value;

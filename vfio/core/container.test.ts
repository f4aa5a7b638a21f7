import { afterEach, beforeEach, expect, test } from 'vitest';
import { World, type WorldDevice } from '../testing/world.js';
import {
  VFIO_DMA_CC_IOMMU,
  VFIO_NOIOMMU_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
} from '../uapi.js';
import type { CoreContainerFile } from './container.js';
import type { CoreGroupFile } from './group-file.js';

let world: World;
let made: WorldDevice;
let container: CoreContainerFile;
let group: CoreGroupFile;
let isRawioAllowed: boolean;

beforeEach(() => {
  isRawioAllowed = true;
  world = new World({ ports: { hasRawio: () => isRawioAllowed }, enableUnsafeNoiommuMode: true });
  made = world.device();
  container = world.openContainer();
  group = world.openGroup(made.device.group.number);
});
afterEach(() => {
  group[Symbol.dispose]();
  container[Symbol.dispose]();
  world.remove(made);
  world.takeWarnings(); // of groups without an IOMMU
  world.end();
});

test('DMA_CC depends on the groups, so before SET_IOMMU it is 0', () => {
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(0);
  group.setContainer(container);
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(0);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  expect(container.checkExtension(VFIO_DMA_CC_IOMMU)).toBe(1);
});

test('SET_IOMMU of an extension that is no type is EINVAL, of one that no driver claims ENODEV', () => {
  group.setContainer(container);
  expect(() => container.setIommu(VFIO_DMA_CC_IOMMU)).toThrowError(/ENODEV/);
  expect(() => container.setIommu(VFIO_UNMAP_ALL)).toThrowError(/EINVAL/);
  expect(() => container.setIommu(99)).toThrowError(/ENODEV/);
  container.setIommu(VFIO_TYPE1_IOMMU);
});

test('CHECK_EXTENSION of no-IOMMU needs no right, SET_IOMMU of it CAP_SYS_RAWIO (EPERM)', () => {
  const bare = world.device({ group: undefined });
  const bareGroup = world.openGroup(bare.device.group.number);
  bareGroup.setContainer(container);
  isRawioAllowed = false;
  expect(container.checkExtension(VFIO_NOIOMMU_IOMMU)).toBe(1);
  expect(() => container.setIommu(VFIO_NOIOMMU_IOMMU)).toThrowError(/EPERM/);
  isRawioAllowed = true;
  container.setIommu(VFIO_NOIOMMU_IOMMU);
  bareGroup[Symbol.dispose]();
  world.remove(bare);
});

test('nobody is named for what is not mapped before SET_IOMMU (EINVAL)', () => {
  const nobody = { access: () => {} };
  expect(() => container.setUnmapped(nobody)).toThrowError(/^setUnmapped on .*: EINVAL/);
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  container.setUnmapped(nobody);
});

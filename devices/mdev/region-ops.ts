import type { Mapping } from '../../sys/mapping.js';
import type { DeviceInfo, RegionInfo, RegionIoEventFd } from '../../vfio/uapi.js';
import type { PciRegions } from './pci-regions.js';

/**
 * Implements the functions of VfioDeviceOps that a region table can answer. A device extends it and declares its
 * `regions`: `class Card extends RegionOps implements VfioDeviceOps`.
 */
export abstract class RegionOps {
  /** The device's regions. */
  protected abstract readonly regions: PciRegions;

  /** @see VfioDeviceOps.reset. A device that implements it reports VFIO_DEVICE_FLAGS_RESET. */
  reset?(): void;

  /** @see VfioDeviceOps.getInfo */
  getInfo(): DeviceInfo {
    return this.regions.getInfo(this.reset !== undefined);
  }

  /** @see VfioDeviceOps.getRegionInfo */
  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    return this.regions.getRegionInfo(index);
  }

  /** @see VfioDeviceOps.getRegionIoFds */
  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    return this.regions.getRegionIoFds(index);
  }

  /** @see VfioDeviceOps.read */
  read(index: number, offset: number, data: Uint8Array): number {
    return this.regions.read(index, offset, data);
  }

  /** @see VfioDeviceOps.write */
  write(index: number, offset: number, data: Uint8Array): number {
    return this.regions.write(index, offset, data);
  }

  /** @see VfioDeviceOps.mmap */
  mmap(index: number, offset: number, bytes: number): Mapping {
    return this.regions.mmap(index, offset, bytes);
  }
}

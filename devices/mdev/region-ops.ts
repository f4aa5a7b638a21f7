import type { Mapping } from '../../sys/mapping.js';
import type { DeviceInfo, RegionInfo, RegionIoEventFd } from '../../vfio/uapi.js';
import type { PciRegions } from './pci-regions.js';

/**
 * The functions of VfioDeviceOps that a region table answers. A device extends it, and declares its `regions`:
 * `class Card extends RegionOps implements VfioDeviceOps`.
 */
export abstract class RegionOps {
  protected abstract readonly regions: PciRegions;

  /** @see VfioDeviceOps.reset. VFIO_DEVICE_FLAGS_RESET is reported if the device has it. */
  reset?(): void;

  getInfo(): DeviceInfo {
    return this.regions.getInfo(this.reset !== undefined);
  }

  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    return this.regions.getRegionInfo(index);
  }

  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    return this.regions.getRegionIoFds(index);
  }

  read(index: number, offset: number, data: Uint8Array): number {
    return this.regions.read(index, offset, data);
  }

  write(index: number, offset: number, data: Uint8Array): number {
    return this.regions.write(index, offset, data);
  }

  mmap(index: number, offset: number, bytes: number): Mapping {
    return this.regions.mmap(index, offset, bytes);
  }
}

import type { AssignableDevice } from '../provider.js';
import type { DeviceFile } from '../uapi.js';
import type { DmaMaps } from './dma-maps.js';
import type { SlotReset } from './pci-functions.js';

/** An open device, associated with the VM, with guest memory mapped for its DMA. Disposing closes it. */
export interface OpenedDevice extends Disposable {
  readonly file: DeviceFile;
  /** Absent if the provider has no call for it. */
  readonly slot?: SlotReset;
}

/** The I/O address space that one provider's devices share. */
export interface DeviceSpace {
  /**
   * @param isHeld whether guest memory need not be mapped yet, if none is so far
   * @throws SysError of the failed step; earlier steps are then reverted
   */
  open(device: AssignableDevice, isHeld?: boolean): OpenedDevice;
  /** Its maps of guest memory; undefined while no device is open. */
  readonly dma: DmaMaps | undefined;
}

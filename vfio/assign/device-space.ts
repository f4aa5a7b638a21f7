import type { AssignableDevice } from '../provider.js';
import type { DeviceFile } from '../uapi.js';
import type { SlotReset } from './pci-functions.js';

/** An open device, associated with the VM, with guest memory mapped for its DMA. Disposing closes it. */
export interface OpenedDevice extends Disposable {
  readonly file: DeviceFile;
  /** Absent if the provider has no call for it. */
  readonly slot?: SlotReset;
}

/** The I/O address space that one provider's devices share. */
export interface DeviceSpace {
  /** @throws SysError of the failed step; earlier steps are then reverted */
  open(device: AssignableDevice): OpenedDevice;
}

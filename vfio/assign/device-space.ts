import type { AssignableDevice, DeviceFile } from '../uapi.js';

/** A device that is open, maps guest memory for DMA, and is associated with the VM. Disposing closes it. */
export interface OpenedDevice extends Disposable {
  readonly file: DeviceFile;
}

/** The address space that one provider's devices share. */
export interface DeviceSpace {
  /** @throws SysError of the step that failed; everything before it has been undone */
  open(device: AssignableDevice): OpenedDevice;
}

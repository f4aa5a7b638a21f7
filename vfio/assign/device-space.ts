import type { EventThread } from '../../sys/event-task.js';
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
  /**
   * @param isHeld whether guest memory need not be mapped yet, if none is so far
   * @throws SysError of the failed step; earlier steps are then reverted
   */
  open(device: AssignableDevice, isHeld?: boolean): OpenedDevice;
  /** @see DmaMaps.begin */
  begin(thread: EventThread): void;
  /** @see DmaMaps.settle */
  settle(): void;
}

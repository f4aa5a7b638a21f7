import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import { type DeviceFile, VFIO_DEVICE_FLAGS_RESET } from '../../vfio/uapi.js';
import {
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { walkCapabilities } from './capabilities.js';
import type { DeviceConfig } from './device-config.js';
import { note } from './notes.js';

const NOBODY = 0xffff;

/** Prepares the device for a reset: disables decoding and DMA, and moves it to power state D0. */
export function quiesce(config: DeviceConfig): void {
  const power = walkCapabilities((offset, bytes) => config.read(offset, bytes)).find(
    ({ id }) => id === PCI_CAP_ID_PM,
  );
  if (power !== undefined) {
    const at = power.offset + PCI_PM_CTRL;
    const control = config.read(at, 2);
    if ((control & PCI_PM_CTRL_STATE_MASK) !== 0) config.write(at, 2, control & ~PCI_PM_CTRL_STATE_MASK);
  }
  const command = config.read(PCI_COMMAND, 2);
  config.write(PCI_COMMAND, 2, command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER));
}

/**
 * Resets the device with VFIO_DEVICE_RESET (Linux chooses a function level, power management or bus reset). A device
 * without a reset is used as it is, with a note.
 * @throws SysError of the failed reset; EIO if the device no longer responds
 */
export function resetDevice(name: string, file: DeviceFile, config: DeviceConfig): void {
  quiesce(config);
  if ((file.getInfo().flags & VFIO_DEVICE_FLAGS_RESET) === 0) {
    note(name, 'reset', 'the device offers no reset: it keeps the state of its last user');
  } else {
    try {
      file.reset();
      note(name, 'reset', 'the device is reset');
    } catch (error) {
      if (!isErrno(error, 'ENOTTY')) throw error;
      note(name, 'reset', 'the device has no reset (ENOTTY): it keeps the state of its last user');
    }
  }
  if (config.read(PCI_VENDOR_ID, 2) !== NOBODY) return;
  throw new SysError({
    call: 'read',
    target: `configuration space of ${name}`,
    errno: errno.EIO,
    hint: 'it reads all-ones: the device was removed, is in D3cold, or hung after its reset; power-cycle it',
  });
}

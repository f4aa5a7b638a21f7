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

/** Stops the device's decoding and DMA, and wakes it up (D0), so that a reset finds it in a state to take one. */
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
 * Resets the device (VFIO_DEVICE_RESET: Linux chooses function level, power management or bus reset). One that cannot
 * be reset is used as it is, and a note says so.
 * @throws SysError of the reset if it fails; EIO if the device does not answer any more
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
    hint: 'it reads all-ones: the device is gone, asleep (D3cold) or hung after its reset; power it off and on',
  });
}

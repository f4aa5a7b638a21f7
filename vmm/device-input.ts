import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { InputEvent } from '../vfio/driver.js';
import type { AssignableDevice } from '../vfio/provider.js';

/** @see AssignableDevice.input. @throws also SysError ENOTSUP for a device that is no keyboard or pointer of this process */
export function giveInput(device: AssignableDevice, target: string, events: readonly InputEvent[]): void {
  if (device.input === undefined) {
    const hint = 'this device takes no events; the device virtio-input does';
    throw new SysError({ call: 'input', target, errno: errno.ENOTSUP, hint });
  }
  device.input(events);
}

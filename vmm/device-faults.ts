import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { AssignableDevice } from '../vfio/provider.js';

/** @see AssignableDevice.inject. @throws also SysError ENOTSUP for a device that has no faults to give */
export function giveFaults(device: AssignableDevice, target: string, faults: string): void {
  if (device.inject === undefined) {
    const hint = 'this device has no faults to choose; the device testcard has';
    throw new SysError({ call: 'inject', target, errno: errno.ENOTSUP, hint });
  }
  device.inject(faults);
}

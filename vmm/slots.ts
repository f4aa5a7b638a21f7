import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { DeviceConfig } from './config.js';

/** First slot for devices without a configured one: 0 is the host bridge, 1 and 2 stay free as on other machines. */
const FIRST_SLOT = 3;
const LAST_SLOT = 31;

/**
 * The PCI slots of devices, in their order: those that they name, and the first free ones for the others.
 * @param taken what is in a slot, in words, undefined for a free one
 * @throws SysError EBUSY for a slot that is taken, ENOSPC if none is left
 */
export function slotsOf(
  devices: readonly Pick<DeviceConfig, 'slot'>[],
  taken: (slot: number) => string | undefined = () => undefined,
): readonly number[] {
  const wanted = new Set(devices.map(({ slot }) => slot));
  let next = FIRST_SLOT;
  return devices.map(({ slot }) => {
    if (slot !== undefined) {
      const holder = taken(slot);
      if (holder === undefined) return slot;
      const hint = `${holder}; leave slot= out for the first free one`;
      throw new SysError({ call: 'attach', target: `PCI slot ${slot}`, errno: errno.EBUSY, hint });
    }
    while (next <= LAST_SLOT && (wanted.has(next) || taken(next) !== undefined)) next++;
    if (next <= LAST_SLOT) return next++;
    const hint = `slots ${FIRST_SLOT} to ${LAST_SLOT} are taken; detach a device`;
    throw new SysError({ call: 'attach', target: 'the PCI bus', errno: errno.ENOSPC, hint });
  });
}

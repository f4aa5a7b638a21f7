import type { DeviceConfig } from './config.js';

/** First slot for devices without a configured one: 0 is the host bridge, 1 and 2 stay free as on other machines. */
const FIRST_SLOT = 3;

/** The PCI slots of the configured devices, in their order. */
export function slotsOf(devices: readonly Pick<DeviceConfig, 'slot'>[]): readonly number[] {
  const wanted = new Set(devices.map(({ slot }) => slot));
  let next = FIRST_SLOT;
  return devices.map(({ slot }) => {
    while (slot === undefined && wanted.has(next)) next++;
    return slot ?? next++;
  });
}

/** Reset of a slot or bus, whose functions form one device set. After the dev_set part of vfio_pci_core.c. */
import type { PciSlotReset } from '../driver.js';
import type { DeviceSet } from './dev-set.js';

/** Whether every function on the slot is a device of the set. @see vfio_pci_dev_set_resettable */
export function isResettable({ devices }: DeviceSet, slot: PciSlotReset): boolean {
  const names = new Set([...devices].map(({ name }) => name));
  return slot.functions.every(({ name }) => names.has(name));
}

/**
 * Resets the slot at the last close of its device set, if a device of the set has not been reset since it was used.
 * The caller holds the set's lock, and its device still counts as open. Returns whether the slot was reset.
 * @see vfio_pci_dev_set_try_reset
 */
export function trySlotReset(set: DeviceSet, slot: PciSlotReset): boolean {
  const devices = [...set.devices];
  if (set.openCount > 1 || !devices.some(({ needsReset }) => needsReset)) return false;
  if (!isResettable(set, slot)) return false;
  try {
    slot.reset();
  } catch {
    return false; // tried again at the next last close
  }
  for (const device of devices) device.needsReset = false;
  return true;
}

import type { DependentDevice } from '../pci-hot-reset.js';
import type { AssignableDevice } from '../provider.js';
import type { DeviceFile, GroupFile } from '../uapi.js';
import type { SlotReset } from './pci-functions.js';

/** A device's address without the options that its name in GET_DEVICE_FD may have. */
const ownAddress = ({ name }: AssignableDevice): string => name.split(' ')[0] as string;

const isGroup = (group: number | undefined): group is number => group !== undefined;

/**
 * The slot reset of a device that was opened through its group.
 * @param groupOf the open file of an attached group; undefined for one that is not attached
 */
export function slotResetByGroup(
  device: AssignableDevice,
  file: DeviceFile,
  groupOf: (group: number) => GroupFile | undefined,
): SlotReset | undefined {
  if (file.getPciHotResetInfo === undefined || file.pciHotReset === undefined) return undefined;
  const devices = (): readonly DependentDevice[] => file.getPciHotResetInfo?.().devices ?? [];
  return {
    address: ownAddress(device),
    affected: () =>
      devices().map(({ address, group }) =>
        isGroup(group) && groupOf(group) !== undefined
          ? { address }
          : { address, foreign: `its group ${group} is not attached to this machine` },
      ),
    reset() {
      const groups = new Set(
        devices()
          .map(({ group }) => group)
          .filter(isGroup),
      );
      file.pciHotReset?.([...groups].map(groupOf).filter((group) => group !== undefined));
    },
  };
}

/** The slot reset of a device that is bound to an iommufd, which is the proof of ownership. */
export function slotResetByIommufd(device: AssignableDevice, file: DeviceFile): SlotReset | undefined {
  if (file.getPciHotResetInfo === undefined || file.pciHotReset === undefined) return undefined;
  return {
    address: ownAddress(device),
    affected: () =>
      (file.getPciHotResetInfo?.().devices ?? []).map(({ address, isOwned }) =>
        isOwned === true
          ? { address }
          : { address, foreign: 'it is not attached to this machine by its cdev' },
      ),
    reset: () => file.pciHotReset?.(),
  };
}

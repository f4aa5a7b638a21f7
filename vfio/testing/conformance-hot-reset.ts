/** Rules of hot reset, for devices that have a slot or bus to reset and for those that have none. No rule resets one. */
import assert from 'node:assert/strict';
import { isErrno } from '../../sys/error.js';
import type { HotResetInfo } from '../pci-hot-reset.js';
import type { DeviceFile } from '../uapi.js';
import { type Bench, fails, type Rule } from './conformance-bench.js';

/** The reply, or the errno of a device whose slot and bus cannot be reset. */
function infoOf(file: DeviceFile): HotResetInfo | 'ENODEV' | 'ENOTTY' {
  try {
    return file.getPciHotResetInfo?.() ?? 'ENOTTY';
  } catch (error) {
    for (const code of ['ENODEV', 'ENOTTY'] as const) if (isErrno(error, code)) return code;
    throw error;
  }
}

/** The device's name without its options. */
const nameOf = ({ device }: Bench): string => device.name.split(' ')[0] as string;

export const hotResetGroupRules: readonly Rule[] = [
  [
    'a hot reset tells the groups that it affects, the device’s own among them, and needs them all',
    (bench) => {
      const { group } = bench.contained();
      const file = bench.scope.own(group.getDeviceFd(bench.device.name));
      if (file.pciHotReset === undefined) return;
      const info = infoOf(file);
      if (typeof info === 'string') {
        fails(info, 'PCI_HOT_RESET', () => file.pciHotReset?.([group]));
        return;
      }
      assert.equal(info.isOwned, undefined);
      const own = info.devices.find(({ address }) => address === nameOf(bench));
      assert.equal(own?.group, bench.device.group);
      fails('EINVAL', 'PCI_HOT_RESET without groups', () => file.pciHotReset?.());
      const many = [...info.devices.map(() => group), group];
      fails('EINVAL', 'PCI_HOT_RESET with more groups than functions', () => file.pciHotReset?.(many));
      if (info.devices.every((each) => each.group === bench.device.group)) return;
      fails('EINVAL', 'PCI_HOT_RESET with one group of several', () => file.pciHotReset?.([group]));
    },
  ],
];

export const hotResetCdevRules: readonly Rule[] = [
  [
    'a hot reset of a bound device tells its id, and is refused unless all functions are owned',
    (bench) => {
      const { cdev } = bench.cdev();
      if (cdev.pciHotReset === undefined) return;
      const devid = cdev.bindIommufd(bench.iommufd(), bench.device.vfToken);
      const info = infoOf(cdev);
      if (typeof info === 'string') {
        fails(info, 'PCI_HOT_RESET', () => cdev.pciHotReset?.());
        return;
      }
      const own = info.devices.find(({ address }) => address === nameOf(bench));
      assert.equal(own?.devid, devid);
      assert.equal(
        info.isOwned,
        info.devices.every(({ isOwned }) => isOwned),
      );
      if (!info.isOwned) fails('EINVAL', 'PCI_HOT_RESET of others', () => cdev.pciHotReset?.());
    },
  ],
];

/** Reset of a PCI slot or bus with all its functions, for devices without a reset of their own. */
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import type { DependentDevice, HotResetInfo } from '../pci-hot-reset.js';
import type { GroupFile } from '../uapi.js';
import { decodeList } from './capability-chain.js';
import { decodeReply } from './info-call.js';
import {
  PciDependentDevice,
  PciHotReset,
  PciHotResetInfo,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_PCI_DEVID_NOT_OWNED,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
} from './structs.js';
import type { SystemFile } from './system.js';

/** Far above the functions of any slot: a bus has at most 256, and a slot a few buses. */
const DEVICE_LIMIT = 4096;
const ROUNDS = 4;

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

function decode(bytes: Uint8Array): HotResetInfo {
  const { flags, count } = PciHotResetInfo.decode(bytes);
  const list = decodeList(bytes, PciHotResetInfo.size, count, PciDependentDevice);
  const isById = (flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID) !== 0;
  const devices = list.map(({ group_id, segment, bus, devfn }): DependentDevice => {
    const address = `${hex(segment, 4)}:${hex(bus, 2)}:${hex(devfn >> 3, 2)}.${devfn & 7}`;
    if (!isById) return { address, group: group_id };
    return { address, devid: group_id, isOwned: (group_id | 0) !== VFIO_PCI_DEVID_NOT_OWNED };
  });
  if (!isById) return { devices };
  return { devices, isOwned: (flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED) !== 0 };
}

/** @throws SysError ENODEV if neither slot nor bus can be reset; EPROTO for a list above the limit */
export function getPciHotResetInfo(file: SystemFile): HotResetInfo {
  const request = VFIO_DEVICE_GET_PCI_HOT_RESET_INFO;
  let room = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const argsz = PciHotResetInfo.size + room * PciDependentDevice.size;
    const bytes = PciHotResetInfo.encode({ argsz }, argsz - PciHotResetInfo.size);
    try {
      file.ioctl(request, bytes);
    } catch (error) {
      const { count } = PciHotResetInfo.decode(bytes);
      if (!isErrno(error, 'ENOSPC') || count > DEVICE_LIMIT) throw error;
      room = Math.max(count, room + 1);
      continue;
    }
    return decodeReply(request, file.target, () => decode(bytes));
  }
  throw new SysError({ call: request.name, target: file.target, errno: errno.EPROTO });
}

/**
 * Resets the device's slot or bus.
 * @param groups every group that {@link getPciHotResetInfo} reports, as proof of ownership; empty for a cdev, whose
 *   iommufd is the proof
 * @throws SysError EINVAL or EPERM if an affected function is not owned; ENODEV
 */
export function pciHotReset(file: SystemFile, groups: readonly GroupFile[]): void {
  const bytes = PciHotReset.encode({ count: groups.length }, groups.length * 4);
  PciHotReset.write(bytes, { argsz: bytes.length });
  const fds = new Int32Array(bytes.buffer, PciHotReset.size, groups.length);
  for (const [i, group] of groups.entries()) {
    if (group.fd === undefined) {
      const hint = `${group.target} is not a group of the kernel`;
      throw new SysError({
        call: VFIO_DEVICE_PCI_HOT_RESET.name,
        target: file.target,
        errno: errno.EBADF,
        hint,
      });
    }
    fds[i] = group.fd;
  }
  file.ioctl(VFIO_DEVICE_PCI_HOT_RESET, bytes);
}

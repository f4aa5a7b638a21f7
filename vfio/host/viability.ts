import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { HARMLESS_DRIVERS } from '../harmless-drivers.js';
import type { HostGroup, Sysfs, SysfsDevice } from './sysfs.js';

/** Whether a group is viable with this member: it has a vfio driver, no driver, or one that does no DMA. */
export function isHarmless(member: SysfsDevice): boolean {
  if (member.driver === undefined || member.isVfio || member.isBridge) return true;
  return HARMLESS_DRIVERS.includes(member.driver);
}

/** Members that make a group non-viable. */
export function blockingMembers(group: HostGroup): readonly SysfsDevice[] {
  return group.members.filter((member) => !isHarmless(member));
}

/** Shell commands that bind a PCI function to vfio-pci, for the user to run. */
export function bindCommands(sysfs: Sysfs, device: SysfsDevice, driver = 'vfio-pci'): string[] {
  const folder = sysfs.path('bus/pci/devices', device.name);
  const unbind = device.driver === undefined ? [] : [`echo ${device.name} > ${folder}/driver/unbind`];
  return [
    `modprobe ${driver}`,
    `echo ${driver} > ${folder}/driver_override`,
    ...unbind,
    `echo ${device.name} > ${sysfs.path('bus/pci/drivers_probe')}`,
  ];
}

/** Shell commands that bind it to its current driver again. */
export function unbindCommands(sysfs: Sysfs, device: SysfsDevice): string[] {
  const folder = sysfs.path('bus/pci/devices', device.name);
  const probe =
    device.driver === undefined ? [] : [`echo ${device.name} > ${sysfs.path('bus/pci/drivers_probe')}`];
  return [`echo > ${folder}/driver_override`, `echo ${device.name} > ${folder}/driver/unbind`, ...probe];
}

function advice(sysfs: Sysfs, member: SysfsDevice): string {
  if (member.bus !== 'pci') return `unbind ${member.name} from ${member.driver}`;
  const indent = (commands: readonly string[]) => commands.map((command) => `      ${command}`).join('\n');
  return (
    `${member.name} (${member.driver ?? 'no driver'})\n    fix:\n${indent(bindCommands(sysfs, member))}\n` +
    `    undo:\n${indent(unbindCommands(sysfs, member))}`
  );
}

/** The error for a device that is bound to a host driver, with the commands that rebind it. */
export function boundToHost(sysfs: Sysfs, device: SysfsDevice): SysError {
  const held =
    device.driver === undefined ? 'no vfio driver has it' : `the host uses it (driver ${device.driver})`;
  const hint =
    device.bus === 'pci'
      ? `${held}; give it to vfio-pci, or let option bind=vfio-pci do so:\n    ${advice(sysfs, device)}`
      : `${held}: bind it to a vfio driver`;
  return new SysError({ call: 'attach', target: device.name, errno: errno.EBUSY, hint });
}

/**
 * Checks a group's viability before anything is opened: VFIO_GROUP_GET_STATUS does not name the members at fault.
 * @throws SysError EPERM, naming every such member with its driver, and the commands that rebind and restore it
 */
export function checkViable(sysfs: Sysfs, group: HostGroup): void {
  const blocking = blockingMembers(group);
  if (blocking.length > 0) throw notViable(sysfs, group.number, blocking);
}

/** EPERM for a group with these blocking members. */
export function notViable(sysfs: Sysfs, number: number, blocking: readonly SysfsDevice[]): SysError {
  const names = blocking.map(({ name, driver }) => `${name} (${driver})`).join(', ');
  const details = blocking.map((member) => `  ${advice(sysfs, member)}`).join('\n');
  const hint =
    `group ${number} is not viable while the host uses ${names}: ` +
    `all its devices have to be with a vfio driver or with none\n${details}`;
  return new SysError({
    call: 'VFIO_GROUP_GET_STATUS',
    target: `/dev/vfio/${number}`,
    errno: errno.EPERM,
    hint,
  });
}

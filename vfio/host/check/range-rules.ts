/** Rules about I/O virtual addresses that a group's devices keep for themselves. */
import { formatRange, iova } from '../../../sys/address.js';
import type { ReservedRegion } from '../sysfs.js';
import { fileSays } from './evidence.js';
import { fails, ok, unknown } from './finding.js';
import type { CheckedGroup, CheckedMachine, GuestRange, Rule } from './subject.js';

const evidenceOf = ({ group }: CheckedGroup, { context }: CheckedMachine) => [
  fileSays(context.sysfs.path('kernel/iommu_groups', String(group.number), 'reserved_regions')),
];

const isPhysical = ({ devices }: CheckedGroup): boolean => devices.some(({ device }) => device.bus === 'pci');

const format = ({ start, last, type }: ReservedRegion): string =>
  `${formatRange(iova(start), last - start + 1n)} (${type})`;

export const directMapping: Rule<CheckedGroup> = {
  name: 'direct-mapping',
  check(subject, machine) {
    if (!isPhysical(subject)) return undefined;
    const direct = subject.group.reservedRegions.filter(({ type }) => type === 'direct');
    const evidence = evidenceOf(subject, machine);
    if (direct.length === 0) return undefined;
    return fails(`the firmware insists on its own DMA to ${direct.map(format).join(', ')}`, {
      why: 'the kernel gives such a device to nobody (EINVAL, before Linux 6.6 EPERM)',
      evidence,
      advice:
        'look for its cause in the firmware’s setup: pre-boot DMA protection, remote management of this device, ' +
        'legacy USB; or update the firmware',
    });
  },
};

export const reservedRanges: Rule<CheckedGroup> = {
  name: 'reserved-ranges',
  check(subject, machine) {
    if (!isPhysical(subject)) return undefined;
    const { memory } = machine;
    const evidence = evidenceOf(subject, machine);
    // What is direct-relaxable the kernel lets be mapped otherwise.
    const regions = subject.group.reservedRegions.filter(({ type }) => type !== 'direct-relaxable');
    if (regions.length === 0) return ok('no addresses are reserved', { evidence });
    if (memory === undefined)
      return unknown('whether the guest’s memory avoids the reserved addresses depends on its size', {
        why: `reserved: ${regions.map(format).join(', ')}`,
        evidence,
        advice: 'name it: --memory SIZE',
      });
    const hits = regions.filter((region) => memory.some((range) => overlaps(region, range)));
    if (hits.length === 0) return ok('the guest’s memory avoids all reserved addresses', { evidence });
    const end = hits.map(({ start }) => start).reduce((a, b) => (a < b ? a : b));
    return fails(`the guest’s memory covers reserved addresses: ${hits.map(format).join(', ')}`, {
      why: 'the kernel maps nothing there, so the device cannot reach that memory (EINVAL)',
      evidence,
      advice: `give the guest less memory, so that it ends below ${formatRange(iova(end), 1n).split('-')[0]}, or lay it out around them`,
    });
  },
};

const overlaps = ({ start, last }: ReservedRegion, { base, bytes }: GuestRange): boolean =>
  bytes > 0n && start < base + bytes && last >= base;

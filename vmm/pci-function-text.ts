/** A PCI function of the host as text for a person. All that others chose is written without control characters. */
import { printable } from '../sys/printable.js';
import type {
  Assignability,
  NamedId,
  PciBar,
  PciFunctionRecord,
  PciInterrupts,
  PciInventory,
} from '../vfio/host/inventory/index.js';
import { textTable } from './text-table.js';

/** The word for a state in the table. */
const STATES: Readonly<Record<Assignability['state'], string>> = {
  ready: 'ready',
  'in-use': 'in use',
  'needs-bind': 'bind',
  'needs-group-bind': 'bind group',
  'needs-type': 'vGPU type',
  'no-iommu': 'no IOMMU',
  bridge: 'bridge',
};

const NO_PCI = 'This host has no PCI functions: there is nothing in /sys/bus/pci/devices.';
const NO_IOMMU =
  'This host uses no IOMMU, so that no guest can have a device of it: enable VT-d or AMD-Vi in the firmware, and\n' +
  'boot with intel_iommu=on (default on AMD); a virtual machine needs a virtual IOMMU.';

/** One line for each function, and what is to be known of all. */
export function inventoryLines({ functions, areUsersComplete }: PciInventory): string[] {
  if (functions.length === 0) return [NO_PCI];
  const rows = functions.map((each) => [
    each.address,
    STATES[each.assignability.state],
    each.group === undefined ? '-' : String(each.group.number),
    printable(each.driver ?? '-'),
    [deviceName(each), ...each.hostNames.slice(0, 1).map((name) => `(${printable(name)})`)].join(' '),
  ]);
  const hasGroups = functions.some(({ group }) => group !== undefined);
  return [
    ...textTable([['ADDRESS', 'STATE', 'GROUP', 'DRIVER', 'DEVICE'], ...rows]),
    ...(hasGroups ? [] : ['', NO_IOMMU]),
    ...(areUsersComplete
      ? []
      : ['', 'This user may not see what all processes have open: some may be in use.']),
  ];
}

const named = ({ id, name }: NamedId): string =>
  name === undefined ? `[${printable(id)}]` : `${printable(name)} [${printable(id)}]`;

function deviceName({ vendor, device }: PciFunctionRecord): string {
  const id = printable(`[${vendor.id}:${device.id}]`);
  if (vendor.name === undefined) return id;
  return `${printable(vendor.name)} ${device.name === undefined ? id : printable(device.name)}`;
}

/** All that is known of a function, a line for each. */
export function functionLines(record: PciFunctionRecord): string[] {
  const { address, assignability, group, sriov, cdev, numaNode, subsystem, revision } = record;
  const rows: (readonly [string, string])[] = [
    ['vendor', named(record.vendor)],
    ['device', named(record.device) + (revision === undefined ? '' : `, revision ${printable(revision)}`)],
  ];
  const add = (name: string, value: string | undefined) => {
    if (value !== undefined) rows.push([name, printable(value)]);
  };
  if (subsystem !== undefined)
    add('card', named({ id: `${subsystem.vendor}:${subsystem.device}`, name: subsystem.name }));
  rows.push(['class', named(record.class)]);
  add('state', `${STATES[assignability.state]}: ${assignability.reason}`);
  add('driver', record.driver ?? 'none');
  add('driver_override', record.driverOverride);
  add('host name', record.hostNames.join(', ') || undefined);
  add('mounted', record.mountPoints.join(', ') || undefined);
  if (group === undefined) add('group', 'none');
  else {
    const kind = group.isNoiommu ? ', without an IOMMU' : '';
    add('group', `${group.number}${kind}, ${group.isViable ? 'viable' : 'not viable'}`);
    for (const { name, reason, isBlocking } of group.members)
      add('', `  ${name}: ${reason}${isBlocking ? ', which holds the group back' : ''}`);
    for (const { start, last, type } of group.reservedRegions)
      add('reserved', `${start} to ${last}, ${type}`);
  }
  add('reset', resetText(record.resetMethods));
  for (const bar of record.bars) add(bar.index === 'rom' ? 'ROM' : `BAR ${bar.index}`, barText(bar));
  add('interrupts', interruptsText(record.interrupts));
  if (sriov?.role === 'virtfn') add('SR-IOV', `VF of ${sriov.physfn}`);
  if (sriov?.role === 'physfn') {
    add(
      'SR-IOV',
      `${sriov.numVfs} of ${sriov.totalVfs} VFs${sriov.isAutoprobed === false ? ', no driver is bound to new ones' : ''}`,
    );
    add('VFs', sriov.virtfns.join(', ') || undefined);
  }
  for (const { type, name, availableInstances } of record.mdevTypes)
    add('mdev type', `${type} (${name}), ${availableInstances} available`);
  if (record.vfTypes !== undefined) {
    const { types, problem } = record.vfTypes;
    add('vGPU type', problem ?? (types?.current === 0 ? 'none' : String(types?.current)));
    for (const { id, name } of types?.creatable ?? []) add('', `  ${id}: ${name}`);
  }
  add('cdev', cdev === undefined ? undefined : `/dev/vfio/devices/${cdev}`);
  add('NUMA node', numaNode?.toString());
  add('power', powerText(record));
  if (record.isBootVga) add('display', "the firmware's, which may be the host's console");
  for (const { pid, name } of record.users) add('used by', `process ${pid} (${name})`);
  const lines = textTable(rows.map(([name, value]) => [`  ${name}`, value]));
  return [address, ...lines];
}

function resetText(methods: readonly string[] | 'unknown'): string {
  if (methods === 'unknown') return 'yes, and this kernel does not say how';
  return methods.length === 0 ? 'none: it keeps its state from one guest to the next' : methods.join(', ');
}

function barText({ kind, size, start, is64Bit, isPrefetchable }: PciBar): string {
  const kinds = [
    kind === 'io' ? 'I/O ports' : 'memory',
    ...(is64Bit ? ['64-bit'] : []),
    ...(isPrefetchable ? ['prefetchable'] : []),
  ];
  return `${sizeText(size)} at ${start ?? 'no address'}, ${kinds.join(', ')}`;
}

function sizeText(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let [size, unit] = [bytes, 0];
  while (size >= 1024 && size % 1024 === 0 && unit < units.length - 1) [size, unit] = [size / 1024, unit + 1];
  return `${size} ${units[unit]}`;
}

function interruptsText({ intx, msi, msix }: PciInterrupts): string {
  if (msi === 'unknown' && msix === 'unknown')
    return `${intx === undefined ? '' : `INT${intx}, `}MSI and MSI-X unknown: only root may read them`;
  const parts = [
    ...(intx === undefined ? [] : [`INT${intx}`]),
    ...(msi === 0 ? [] : [`MSI with ${msi}`]),
    ...(msix === 0 ? [] : [`MSI-X with ${msix}`]),
  ];
  return parts.join(', ') || 'none';
}

function powerText({ powerState, isD3coldAllowed }: PciFunctionRecord): string | undefined {
  if (powerState === undefined) return undefined;
  return isD3coldAllowed === undefined
    ? powerState
    : `${powerState}, D3cold ${isD3coldAllowed ? '' : 'not '}allowed`;
}

/** Rules about the IOMMU: whether it translates a device's DMA, and remaps its interrupts. */
import { join } from 'node:path';
import { noiommuRefusal } from '../../noiommu-refusal.js';
import type { HostContext } from '../context.js';
import { moduleState } from '../kernel-modules.js';
import { list, text } from '../sysfs.js';
import { behindNoIommu } from '../usable.js';
import { fileSays, folderSays, linkSays, says } from './evidence.js';
import { type CheckEvidence, type CheckFinding, fails, ok, unknown, warning } from './finding.js';
import { addParameter, removeParameter, THEN_REBOOT } from './kernel-parameter.js';
import type { CheckedDevice, CheckedMachine, Rule } from './subject.js';

const isMediated = (devices: readonly CheckedDevice[]): boolean =>
  devices.every(({ device }) => device?.bus !== 'pci');

/** The IOMMUs that the kernel uses: `dmar0`, `ivhd0`. */
const iommus = ({ sysfs }: HostContext): readonly string[] => list(sysfs.path('class/iommu')) ?? [];

export const iommu: Rule<CheckedDevice> = {
  name: 'iommu',
  check({ device, group }, { context }) {
    if (device === undefined || device.bus !== 'pci') return undefined;
    const names = iommus(context);
    const evidence = [
      linkSays(join(device.path, 'iommu_group')),
      folderSays(context.sysfs.path('class/iommu')),
    ];
    if (group !== undefined && !group.isNoiommu)
      return ok(`an IOMMU translates its DMA (${names.join(', ') || 'of a kind without a name'})`, {
        evidence,
      });
    const why = 'without one, a guest’s device could read and write all memory of the host';
    if (group?.isNoiommu === true)
      evidence.push(says(context.sysfs.path('class/vfio', `noiommu-${group.number}`), 'there'));
    const known = group === undefined ? '' : `; VFIO made group ${group.number} for want of one`;
    const text = `no IOMMU translates its DMA${known}`;
    if (names.length > 0) {
      const advice =
        'the kernel has an IOMMU, which does not cover this device: its firmware leaves it out (the DMAR or IVRS table)';
      return fails(text, { why, evidence, advice });
    }
    const cause = whyOff(context);
    return fails(text, { why, ...cause, evidence: [...evidence, ...cause.evidence] });
  },
  refusal({ device, group }) {
    if (device === undefined) return undefined;
    return group === undefined ? behindNoIommu(device) : noiommuRefusal(device.name);
  },
};

interface Cause {
  readonly evidence: readonly CheckEvidence[];
  readonly commands: readonly string[];
  readonly advice: string;
}

/** Why the kernel uses no IOMMU at all. */
function whyOff({ sysfs, roots }: HostContext): Cause {
  const cmdline = join(roots.proc, 'cmdline');
  const parameters = (text(cmdline) ?? '').split(/\s+/);
  const tables = sysfs.path('firmware/acpi/tables');
  const [hasDmar, hasIvrs] = ['DMAR', 'IVRS'].map((table) => list(tables)?.includes(table) === true);
  const tableSays = says(
    tables,
    [hasDmar && 'DMAR', hasIvrs && 'IVRS'].filter(Boolean).join(', ') || 'neither DMAR nor IVRS',
  );
  const relevant = parameters.filter((word) => word.includes('iommu'));
  const evidence = [says(cmdline, relevant.join(' ') || 'no parameter of an IOMMU'), tableSays];
  const off = parameters.find((word) => /^(?:(?:intel|amd)_iommu|iommu)=off$/.test(word));
  if (off !== undefined) return { evidence, commands: [removeParameter(off)], advice: THEN_REBOOT };
  if (hasDmar && !parameters.some((word) => /^intel_iommu=(?:.*,)?on/.test(word)))
    return { evidence, commands: [addParameter('intel_iommu=on')], advice: THEN_REBOOT };
  if (hasDmar || hasIvrs) {
    const advice = `the firmware has an IOMMU, and the kernel does not use it: see dmesg, and whether it has CONFIG_${hasDmar ? 'INTEL' : 'AMD'}_IOMMU`;
    return { evidence, commands: [], advice };
  }
  const cpuinfo = join(roots.proc, 'cpuinfo');
  const flags = /^flags\s*:(.*)$/m.exec(text(cpuinfo) ?? '')?.[1] ?? '';
  const isVirtual = flags.split(' ').includes('hypervisor');
  const vendor = /^vendor_id\s*:\s*(\S+)/m.exec(text(cpuinfo) ?? '')?.[1];
  const cpu = says(cpuinfo, `${vendor ?? 'no vendor'}${isVirtual ? ', in a virtual machine' : ''}`);
  const advice = isVirtual
    ? 'this is a virtual machine: it needs a virtual IOMMU (QEMU: -device intel-iommu,intremap=on, then intel_iommu=on)'
    : `turn on ${vendor === 'AuthenticAMD' ? 'AMD-Vi (IOMMU)' : 'VT-d'} in the firmware’s setup` +
      (vendor === 'AuthenticAMD' ? '' : ', and boot with intel_iommu=on');
  return { evidence: [...evidence, cpu], commands: [], advice };
}

const NOT_REMAPPED =
  'without remapping, a guest could make its device send any interrupt to the host, so VFIO refuses the IOMMU (EPERM)';

/** The parameter of each interface’s module that lets devices in whose interrupts are not remapped. */
const UNSAFE = { group: 'vfio_iommu_type1', iommufd: 'iommufd' } as const;

export const interruptRemapping: Rule<CheckedMachine> = {
  name: 'interrupt-remapping',
  check({ devices, context }) {
    if (isMediated(devices) || iommus(context).length === 0) return undefined;
    const path = join(context.roots.proc, 'interrupts');
    const chips = chipsOf(text(path));
    const said = chips.length === 0 ? 'cannot be read' : `chips ${chips.join(', ')}`;
    const evidence = [says(path, said)];
    // Remapped interrupts have chips of their own: IR-IO-APIC, IR-PCI-MSI, IR-PCI-MSIX-0000:01:00.0.
    if (chips.some((chip) => chip.startsWith('IR-'))) return ok('interrupts are remapped', { evidence });
    if (chips.length === 0 || !iommus(context).some((name) => /^(?:dmar|ivhd)\d+$/.test(name)))
      return unknown('whether interrupts are remapped does not show', { why: NOT_REMAPPED, evidence });
    return notRemapped(context, devices, evidence);
  },
};

const chipsOf = (interrupts: string | undefined): readonly string[] => {
  const names = [...(interrupts ?? '').matchAll(/\s((?:IR-)?(?:IO-APIC|PCI-MSI|DMAR-MSI|HV-PCI)\b)/g)];
  return [...new Set(names.map(([, chip]) => chip as string))];
};

function notRemapped(
  context: HostContext,
  devices: readonly CheckedDevice[],
  evidence: readonly CheckEvidence[],
): CheckFinding {
  const modules = [...new Set(devices.map((each) => UNSAFE[each.interface]))];
  const files = modules.map((name) =>
    context.sysfs.path('module', name, 'parameters/allow_unsafe_interrupts'),
  );
  const all = [...evidence, ...files.map(fileSays)];
  if (files.every((file) => text(file) === 'Y'))
    return warning('interrupts are not remapped, and the host takes that risk', {
      why: 'a guest can make its device send any interrupt to the host',
      evidence: all,
      advice: 'turn on interrupt remapping in the firmware’s setup instead',
    });
  const load = modules
    .filter((name) => moduleState(context.roots, name) !== 'present')
    .map((name) => `modprobe ${name}`);
  return fails('interrupts are not remapped', {
    why: NOT_REMAPPED,
    evidence: all,
    commands: [...load, ...files.map((file) => `echo 1 > ${file}`)],
    advice:
      'better: turn it on in the firmware’s setup, and boot without intremap=off and nointremap; the commands take the risk instead',
  });
}

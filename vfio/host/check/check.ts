/** Runs the rules: why devices of the host can or cannot be assigned to a machine, found before it is tried. */
import { SysError } from '../../../sys/error.js';
import { MDEV_PREFIX, pciAddress } from '../../addresses.js';
import { isUuid } from '../../uuid.js';
import { type HostContext, hostContext } from '../context.js';
import { readPciFunction } from '../inventory/inventory.js';
import { PciNames } from '../inventory/pci-names.js';
import type { HostGroup, SysfsDevice } from '../sysfs.js';
import type { CheckReport, CheckResult } from './finding.js';
import { type NodeProbe, nodeProbe } from './node-probe.js';
import { DEVICE_RULES, GROUP_RULES, HOST_RULES } from './rules.js';
import type {
  CheckedDevice,
  CheckedGroup,
  CheckedMachine,
  CheckedMember,
  CheckInterface,
  GuestRange,
  Rule,
} from './subject.js';

/** A device to check, as it would be assigned. */
export interface CheckDevice {
  /** A PCI address, the UUID of a mediated device of the kernel, or `mdev:TYPE`. */
  readonly address: string;
  /** The options of the assignment: `bind`, `vf-token`. */
  readonly options?: Readonly<Record<string, string>>;
  /** Default: `group`. */
  readonly interface?: CheckInterface;
}

/** What is to be assigned to one machine. */
export interface CheckRequest {
  /** All of them: devices of one group or slot depend on each other. */
  readonly devices: readonly CheckDevice[];
  /** The ranges of guest physical addresses that hold RAM, in your machine’s layout; absent: not known yet. */
  readonly memory?: readonly GuestRange[] | undefined;
  /**
   * The process that will lock the guest's memory, or start who does: its limit is what a command raises. Its number, or a
   * shell's name for itself, `$$`. Default: this process.
   */
  readonly lockingProcess?: string;
}

/** Another host, for tests. */
export interface CheckParts extends Partial<HostContext> {
  /** @internal Looks at device files; tests replace it. */
  readonly probe?: NodeProbe;
}

/** Whether {@link checkHostDevices} takes an address. */
export const isCheckable = (address: string): boolean =>
  pciAddress(address) !== undefined || isUuid(address) || address.startsWith(MDEV_PREFIX);

/**
 * Checks whether devices of the host can be assigned to a machine: each rule with its verdict, the evidence, and the
 * commands that mend it. Reads sysfs, procfs and the modes of device files; opens no device, changes nothing, needs no
 * rights. What this user may not see is `unknown`. Any thread; takes a few milliseconds a device.
 * @throws TypeError for an address that is neither a PCI address nor a UUID nor `mdev:TYPE`
 */
export function checkHostDevices(request: CheckRequest, parts: CheckParts = {}): CheckReport {
  const machine = checkedMachine(request, parts);
  const results = [
    ...resultsOf(HOST_RULES, [machine], machine, () => 'host'),
    ...machine.devices.flatMap((each) => resultsOf(DEVICE_RULES, [each], machine, nameOf)),
    ...resultsOf(GROUP_RULES, groupsOf(machine), machine, ({ group }) => `group ${group.number}`),
  ];
  const has = (verdict: string) => results.some((result) => result.verdict === verdict);
  return { verdict: has('fails') ? 'fails' : has('warning') ? 'warning' : 'ok', results };
}

/**
 * The first of these devices’ failures that is certain before anything is opened, as the error of the call that would
 * fail; undefined if there is none, or if only the kernel can say.
 */
export function certainRefusal(request: CheckRequest, parts: CheckParts = {}): SysError | undefined {
  const machine = checkedMachine(request, parts);
  const attempts = [
    ...machine.devices.map((each) => () => refusalOf(DEVICE_RULES, each, machine)),
    ...groupsOf(machine).map((each) => () => refusalOf(GROUP_RULES, each, machine)),
    () => refusalOf(HOST_RULES, machine, machine),
  ];
  for (const attempt of attempts) {
    const refusal = attempt();
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function refusalOf<S>(rules: readonly Rule<S>[], subject: S, machine: CheckedMachine): SysError | undefined {
  for (const rule of rules) {
    if (rule.refusal === undefined || rule.check(subject, machine)?.verdict !== 'fails') continue;
    const refusal = rule.refusal(subject, machine);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function resultsOf<S>(
  rules: readonly Rule<S>[],
  subjects: readonly S[],
  machine: CheckedMachine,
  nameOfSubject: (subject: S) => string,
): CheckResult[] {
  return subjects.flatMap((subject) =>
    rules.flatMap((rule) => {
      const finding = rule.check(subject, machine);
      return finding === undefined ? [] : [{ rule: rule.name, subject: nameOfSubject(subject), ...finding }];
    }),
  );
}

const nameOf = ({ device, address }: CheckedDevice): string => device?.name ?? address;

function checkedMachine(
  { devices, memory, lockingProcess }: CheckRequest,
  parts: CheckParts,
): CheckedMachine {
  const context = hostContext(parts);
  return {
    context,
    probe: parts.probe ?? nodeProbe,
    devices: devices.map((each) => checkedDevice(context, each)),
    memory,
    lockingProcess: lockingProcess ?? String(process.pid),
  };
}

function checkedDevice(
  context: HostContext,
  { address, options = {}, interface: how = 'group' }: CheckDevice,
): CheckedDevice {
  if (!isCheckable(address))
    throw new TypeError(
      `'${address}' is neither a PCI address nor the UUID of a mediated device nor mdev:TYPE`,
    );
  const found = find(context, address);
  return {
    address,
    options,
    interface: how,
    ...found,
    group: found.device === undefined ? undefined : groupOf(context, found.device),
    pci: once(() =>
      found.device?.bus === 'pci'
        ? // Without names: reading them takes longer than all rules.
          readPciFunction(found.device.name, { ...context, names: new PciNames() })
        : undefined,
    ),
  };
}

/** Looks through all processes, which not every rule needs. */
function once<T>(read: () => T): () => T {
  let result: { readonly value: T } | undefined;
  return () => {
    result ??= { value: read() };
    return result.value;
  };
}

function find({ sysfs }: HostContext, address: string): Pick<CheckedDevice, 'device' | 'missing'> {
  if (address.startsWith(MDEV_PREFIX)) return { device: undefined, missing: undefined };
  try {
    const pci = pciAddress(address);
    const device = pci === undefined ? sysfs.mdev(address.toLowerCase()) : sysfs.pciDevice(pci);
    return { device, missing: undefined };
  } catch (error) {
    if (error instanceof SysError) return { device: undefined, missing: error };
    throw error;
  }
}

/** Undefined also if the group goes in this moment. */
function groupOf({ sysfs }: HostContext, { group }: SysfsDevice): HostGroup | undefined {
  if (group === undefined || !sysfs.exists('kernel/iommu_groups', String(group))) return undefined;
  return sysfs.group(group);
}

function groupsOf({ devices }: CheckedMachine): CheckedGroup[] {
  const byNumber = new Map<number, { group: HostGroup; devices: CheckedMember[] }>();
  for (const { device, group, ...rest } of devices) {
    if (device === undefined || group === undefined) continue;
    const member = { device, group, ...rest };
    const known = byNumber.get(group.number);
    if (known === undefined) byNumber.set(group.number, { group, devices: [member] });
    else known.devices.push(member);
  }
  return [...byNumber.values()];
}

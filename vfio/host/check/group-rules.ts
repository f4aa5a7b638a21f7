/** Rules about an IOMMU group, the unit that the kernel lends. */
import { join } from 'node:path';
import { groupPath, vfioPath } from '../context.js';
import { describeHolders, scanHolders } from '../holders.js';
import type { HostGroup, SysfsDevice } from '../sysfs.js';
import { bindCommands, blockingMembers, isHarmless, notViable } from '../viability.js';
import { acsOf } from './acs.js';
import { linkSays, says } from './evidence.js';
import { fails, ok, unknown, warning } from './finding.js';
import type { CheckedGroup, CheckedMachine, Rule } from './subject.js';

/** Members that keep the group from being viable, but for those that option `bind` takes before the group is opened. */
function blocking({ group, devices }: CheckedGroup): readonly SysfsDevice[] {
  const taken = devices.filter(({ options }) => options.bind !== undefined).map(({ device }) => device.name);
  return blockingMembers(group).filter(({ name }) => !taken.includes(name));
}

const driverOf = (member: SysfsDevice): string => `${member.name} (${member.driver ?? 'no driver'})`;

export const viability: Rule<CheckedGroup> = {
  name: 'viability',
  check(subject, { context }) {
    const { group } = subject;
    const evidence = group.members.map(({ path }) => linkSays(join(path, 'driver')));
    const members = blocking(subject);
    if (members.length === 0) return ok(`group ${group.number} is viable`, { evidence });
    const unbound = subject.devices.filter(({ options }) => options.bind === undefined);
    const own = new Set(unbound.map(({ device }) => device.name));
    // Of the devices themselves the rule `driver` says so, with the commands.
    const named = members.filter(({ name }) => !own.has(name));
    if (named.length === 0) return undefined;
    const [functions, foreign] = [true, false].map((isPci) =>
      named.filter(({ bus }) => (bus === 'pci') === isPci),
    );
    return fails(
      `group ${group.number} is not viable while the host uses ${named.map(driverOf).join(', ')}`,
      {
        why: 'a device of the host could read and write the guest’s memory through the same translations',
        evidence,
        commands: (functions ?? []).flatMap((member) => bindCommands(context.sysfs, member)),
        advice: [
          ...(functions ?? []).map(({ name }) => `or: tsvisor bind ${name}`),
          ...(foreign ?? []).map((member) => `unbind ${driverOf(member)}`),
        ].join('; '),
      },
    );
  },
  refusal(subject, { context }) {
    return notViable(context.sysfs, subject.group.number, blocking(subject));
  },
};

/** The files through which a group can be in use: its own, and its members' cdevs. */
function nodesOf({ context }: CheckedMachine, group: HostGroup): string[] {
  const cdevs = group.members.flatMap(({ cdev }) => cdev ?? []);
  return [groupPath(context, group), ...cdevs.map((cdev) => vfioPath(context, 'devices', cdev))];
}

export const inUse: Rule<CheckedGroup> = {
  name: 'in-use',
  check({ group }, machine) {
    if (!group.members.some(({ isVfio }) => isVfio)) return undefined;
    const paths = nodesOf(machine, group);
    const { holders, isComplete } = scanHolders(machine.context.roots, paths);
    const evidence = paths.map((path) =>
      says(path, holders.has(path) ? describeHolders(holders.get(path) ?? []) : 'nobody is seen to hold it'),
    );
    const all = [...new Map([...holders.values()].flat().map((each) => [each.pid, each])).values()];
    const others = all.filter(({ pid }) => pid !== process.pid);
    if (others.length > 0)
      return fails(`group ${group.number} is in use: ${describeHolders(others)}`, {
        why: 'a group has one user at a time, through its file or its cdevs (EBUSY)',
        evidence,
        commands: [`kill ${others.map(({ pid }) => pid).join(' ')}`],
        advice: 'the command ends that process, and a guest that it runs',
      });
    if (all.length > 0)
      return warning(`this process itself has group ${group.number}`, {
        why: 'only the machine that has it can have more devices of it',
        evidence,
      });
    if (!isComplete)
      return unknown(`nobody is seen to use group ${group.number}`, {
        why: 'this user may not see which files others have open; root may',
        evidence,
      });
    return ok(`nobody uses group ${group.number}`, { evidence });
  },
};

export const peers: Rule<CheckedGroup> = {
  name: 'peers',
  check({ group, devices }, { context }) {
    if (!devices.some(({ device }) => device.bus === 'pci')) return undefined;
    const endpoints = group.members.filter(({ isBridge }) => !isBridge);
    const own = new Set(devices.map(({ device }) => device.name));
    const others = endpoints.filter(({ name }) => !own.has(name));
    const folder = context.sysfs.path('kernel/iommu_groups', String(group.number), 'devices');
    const evidence = [says(folder, group.members.map(({ name }) => name).join(' '))];
    if (endpoints.length === 1) return ok('it shares its group with no other device', { evidence });
    const all = [...evidence, ...acsOf(endpoints)];
    if (others.length === 0)
      return ok(`group ${group.number} goes to this machine whole, ${endpoints.length} devices`, {
        evidence: all,
      });
    const idle = others.filter((member) => isHarmless(member)).map(driverOf);
    if (idle.length < others.length) return undefined; // the rule `viability` names them
    return warning(`group ${group.number} has ${idle.join(', ')} besides`, {
      why: 'the IOMMU does not separate them: as long as the guest runs, the host cannot use them, and what they do reaches the guest’s memory',
      evidence: all,
      advice: 'a slot behind a port with access control (ACS) has a group of its own',
    });
  },
};

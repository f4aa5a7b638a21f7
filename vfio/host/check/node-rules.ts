/** Rules about the files in /dev: that they are there, are what they seem, and may be opened by this user. */
import { dirname, join } from 'node:path';
import { groupPath, type HostContext, vfioPath } from '../context.js';
import { moduleState } from '../kernel-modules.js';
import { text } from '../sysfs.js';
import { fileSays, says } from './evidence.js';
import { type CheckEvidence, type CheckFinding, fails, ok, unknown } from './finding.js';
import type { CheckedGroup, CheckedMachine, Rule } from './subject.js';

/** A device file, and the kernel's own record of its number. */
interface Node {
  readonly path: string;
  /** The attribute with its number, `10:196`; without it, the kernel has no such device. */
  readonly numberFile: string;
}

export const kvm: Rule<CheckedMachine> = {
  name: 'kvm',
  check({ context, probe }) {
    const node = {
      path: join(context.roots.dev, 'kvm'),
      numberFile: context.sysfs.path('class/misc/kvm/dev'),
    };
    if (text(node.numberFile) === undefined) return withoutKvm(context, node);
    const problem = problemOf(context, probe, node);
    return problem === undefined
      ? ok('/dev/kvm can be opened', { evidence: [says(node.path, 'may be opened for reading and writing')] })
      : fails(problem.text, { ...problem, why: 'KVM runs the guest' });
  },
};

function withoutKvm(context: HostContext, node: Node): CheckFinding {
  const evidence = [fileSays(node.numberFile)];
  const cpuinfo = join(context.roots.proc, 'cpuinfo');
  const flags = / (vmx|svm)\b/.exec(/^flags\s*:(.*)$/m.exec(text(cpuinfo) ?? '')?.[1] ?? '')?.[1];
  const module = flags === 'vmx' ? 'kvm_intel' : flags === 'svm' ? 'kvm_amd' : undefined;
  const why = 'KVM runs the guest';
  if (module !== undefined && moduleState(context.roots, module) !== 'absent')
    return fails(`${module} is not loaded`, { why, evidence, commands: [`modprobe ${module}`] });
  const advice =
    'turn on VT-x or SVM in the firmware’s setup; in a virtual machine, nested virtualisation at its host';
  const all = [...evidence, says(cpuinfo, `${flags ?? 'neither vmx nor svm'}`)];
  return fails('this host has no KVM', { why, evidence: all, advice });
}

export const nodes: Rule<CheckedGroup> = {
  name: 'nodes',
  check({ group, devices }, { context, probe }) {
    const bound = devices.filter(({ device }) => device.isVfio === true);
    if (bound.length === 0) {
      return unknown('its files come with the VFIO driver', {
        why: 'the rule driver has to be met first',
        evidence: [says(groupPath(context, group), 'not there yet')],
      });
    }
    const wanted = nodesOf(context, group, bound);
    const evidence = wanted
      .filter(({ path }) => probe.access(path) === undefined)
      .map(({ path }) => says(path, 'may be opened for reading and writing'));
    const problems = wanted.flatMap((node) => problemOf(context, probe, node) ?? []);
    if (problems.length === 0) return ok('its files can be opened', { evidence });
    const isDenied = problems.some(({ isDenied: denied }) => denied);
    return fails(problems.map((problem) => problem.text).join('; '), {
      why: 'these files are the way to the device',
      evidence: [...evidence, ...problems.flatMap((problem) => problem.evidence)],
      commands: [...new Set(problems.flatMap(({ commands }) => commands))],
      advice: isDenied
        ? 'until the device changes its driver; for good, a udev rule: SUBSYSTEM=="vfio", OWNER="USER"'
        : undefined,
    });
  },
};

/** The files that a device is opened by. Those that the kernel does not have are the business of the rule `interface`. */
function nodesOf(
  context: HostContext,
  group: CheckedGroup['group'],
  devices: CheckedGroup['devices'],
): Node[] {
  const { sysfs, roots } = context;
  const name = `${group.isNoiommu ? 'noiommu-' : ''}${group.number}`;
  const all: Node[] = devices.flatMap(({ interface: how, device }) =>
    how === 'group'
      ? [
          { path: vfioPath(context, 'vfio'), numberFile: sysfs.path('class/misc/vfio/dev') },
          { path: groupPath(context, group), numberFile: sysfs.path('class/vfio', name, 'dev') },
        ]
      : [
          { path: join(roots.dev, 'iommu'), numberFile: sysfs.path('class/misc/iommu/dev') },
          ...(device.cdev === undefined
            ? []
            : [
                {
                  path: vfioPath(context, 'devices', device.cdev),
                  numberFile: sysfs.path('class/vfio-dev', device.cdev, 'dev'),
                },
              ]),
        ],
  );
  return [...new Map(all.map((node) => [node.path, node])).values()];
}

interface NodeProblem {
  readonly text: string;
  readonly evidence: readonly CheckEvidence[];
  readonly commands: readonly string[];
  readonly isDenied: boolean;
}

/** What is wrong with a file whose device the kernel has. */
function problemOf(
  context: HostContext,
  probe: CheckedMachine['probe'],
  node: Node,
): NodeProblem | undefined {
  const { path, numberFile } = node;
  const number = /^(\d+):(\d+)$/.exec(text(numberFile) ?? '');
  if (number === null) return undefined;
  const [, major, minor] = number;
  const error = probe.access(path);
  const file = probe.deviceNumber(path);
  if (error === undefined || (error !== 'ENOENT' && file !== undefined)) {
    if (file !== undefined && file.major === Number(major) && file.minor === Number(minor)) {
      if (error === undefined) return undefined;
      return denied(path, error, probe);
    }
    const said = file === undefined ? 'no character device' : `character device ${file.major}:${file.minor}`;
    return {
      text: `${path} is another device`,
      evidence: [says(path, said), fileSays(numberFile)],
      commands: uncover(context, node, [`rm ${path}`, `mknod ${path} c ${major} ${minor}`]),
      isDenied: false,
    };
  }
  if (error !== 'ENOENT') return denied(path, error, probe);
  return {
    text: `the kernel has the device, but there is no file ${path}`,
    evidence: [fileSays(numberFile)],
    commands: uncover(context, node, [`mkdir -p ${dirname(path)}`, `mknod ${path} c ${major} ${minor}`]),
    isDenied: false,
  };
}

/** The owner of a device file may open it, unless something else than its mode forbids that. */
function denied(path: string, error: string, { user }: CheckedMachine['probe']): NodeProblem {
  const cause = user === undefined ? ': a device cgroup or a security module forbids it to root' : '';
  return {
    text: `this user may not open ${path} (${error})${cause}`,
    evidence: [says(path, error)],
    commands: user === undefined ? [] : [`chown ${user} ${path}`],
    isDenied: user !== undefined,
  };
}

/** Takes away what is mounted over a file or its folder in /dev, as in some containers; else makes the file by hand. */
function uncover({ roots }: HostContext, { path }: Node, make: readonly string[]): readonly string[] {
  const mounts = (text(join(roots.proc, 'self/mountinfo')) ?? '')
    .split('\n')
    .map((line) => line.split(' ')[4]);
  const over = [path, ...foldersOf(path, roots.dev)].find((each) => mounts.includes(each));
  return over === undefined ? make : [`umount ${over}`];
}

/** The folders between a file and `root`, innermost first. */
function foldersOf(path: string, root: string): string[] {
  const folder = dirname(path);
  return folder === root || folder === path ? [] : [folder, ...foldersOf(folder, root)];
}

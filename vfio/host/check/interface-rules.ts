/** The rule about VFIO's two interfaces: which the kernel has for these devices, and which of them is better. */
import { join } from 'node:path';
import type { HostContext } from '../context.js';
import { type ModuleState, moduleState } from '../kernel-modules.js';
import { isOlderThan, kernelRelease } from '../kernel-release.js';
import { text } from '../sysfs.js';
import { fileSays, says } from './evidence.js';
import { type CheckEvidence, fails, ok, unknown } from './finding.js';
import type { CheckedDevice, CheckedMachine, Rule } from './subject.js';

/** Whether an interface can be used, and what it lacks. */
interface Availability {
  readonly state: 'there' | 'missing' | 'unknown';
  readonly lack: string;
  readonly commands: readonly string[];
  readonly evidence: readonly CheckEvidence[];
}

export const interfaces: Rule<CheckedMachine> = {
  name: 'interface',
  check({ context, devices }) {
    const found = devices.filter(({ device }) => device !== undefined);
    if (found.length === 0) return undefined;
    const wanted = [...new Set(found.map((each) => each.interface))];
    const both = { group: groupInterface(context, found), iommufd: iommufdInterface(context, found) };
    const evidence = [...both.group.evidence, ...both.iommufd.evidence];
    const missing = wanted.filter((how) => both[how].state === 'missing');
    const other = wanted[0] === 'group' ? 'iommufd' : 'group';
    if (missing.length > 0) {
      const isOther = wanted.length === 1 && both[other].state === 'there';
      return fails(missing.map((how) => `no interface ${how}: ${both[how].lack}`).join('; '), {
        why: 'the devices are opened by it',
        evidence,
        commands: missing.flatMap((how) => both[how].commands),
        advice: isOther ? `or use --interface ${other}, which is there` : undefined,
      });
    }
    if (wanted.some((how) => both[how].state === 'unknown'))
      return unknown(
        `whether interface ${wanted.join(' and ')} is there shows once a VFIO driver has the device`,
        {
          why: 'the rule driver has to be met first',
          evidence,
        },
      );
    const better = betterOf(context, found, both.iommufd.state === 'there', both.group.state === 'there');
    return ok(`interface ${wanted.join(' and ')} is there; ${better}`, { evidence });
  },
};

const loading = (state: ModuleState, module: string): readonly string[] =>
  state === 'absent' ? [] : [`modprobe ${module}`];

function groupInterface(context: HostContext, devices: readonly CheckedDevice[]): Availability {
  const { sysfs, roots } = context;
  const miscFile = sysfs.path('class/misc/vfio/dev');
  const [vfio, type1] = [moduleState(roots, 'vfio'), moduleState(roots, 'vfio_iommu_type1')];
  const evidence = [fileSays(miscFile), says('modules vfio, vfio_iommu_type1', `${vfio}, ${type1}`)];
  if (text(miscFile) === undefined) {
    const lack =
      vfio === 'present' ? 'this kernel was built without CONFIG_VFIO_CONTAINER' : withoutVfio(vfio);
    return {
      state: 'missing',
      lack,
      commands: vfio === 'present' ? [] : loading(vfio, 'vfio-pci'),
      evidence,
    };
  }
  // iommufd can stand in for type1 (CONFIG_IOMMUFD_VFIO_CONTAINER).
  if (type1 === 'loadable')
    return {
      state: 'missing',
      lack: 'vfio_iommu_type1 is not loaded',
      commands: ['modprobe vfio_iommu_type1'],
      evidence,
    };
  const bound = devices.filter(({ device }) => device?.isVfio === true);
  const nameless = bound.filter(
    ({ group }) =>
      group !== undefined &&
      !sysfs.exists('class/vfio', `${group.isNoiommu ? 'noiommu-' : ''}${group.number}`),
  );
  if (nameless.length > 0)
    return {
      state: 'missing',
      lack: 'this kernel was built without CONFIG_VFIO_GROUP',
      commands: [],
      evidence,
    };
  const isKnown = bound.length > 0 && (type1 === 'present' || type1 === 'unknown');
  return { state: isKnown ? 'there' : 'unknown', lack: '', commands: [], evidence };
}

function iommufdInterface(context: HostContext, devices: readonly CheckedDevice[]): Availability {
  const { sysfs, roots } = context;
  const miscFile = sysfs.path('class/misc/iommu/dev');
  const iommufd = moduleState(roots, 'iommufd');
  const cdevs = devices.map(({ device }) =>
    says(join(device?.path ?? '', 'vfio-dev'), device?.cdev ?? 'no cdev'),
  );
  const evidence = [fileSays(miscFile), says('module iommufd', iommufd), ...cdevs];
  if (text(miscFile) === undefined) {
    const lack =
      iommufd === 'absent' ? 'this kernel was built without CONFIG_IOMMUFD (6.2)' : 'iommufd is not loaded';
    return { state: 'missing', lack, commands: loading(iommufd, 'iommufd'), evidence };
  }
  const bound = devices.filter(({ device }) => device?.isVfio === true);
  if (bound.some(({ device }) => device?.cdev === undefined)) {
    const lack = 'this kernel has no device files for VFIO: it needs CONFIG_VFIO_DEVICE_CDEV (6.6)';
    return { state: 'missing', lack, commands: [], evidence };
  }
  return { state: bound.length > 0 ? 'there' : 'unknown', lack: '', commands: [], evidence };
}

const withoutVfio = (state: ModuleState): string =>
  state === 'absent' ? 'this kernel was built without CONFIG_VFIO' : 'VFIO is not loaded';

/** Which interface is better for these devices, and why. */
function betterOf(
  context: HostContext,
  devices: readonly CheckedDevice[],
  hasIommufd: boolean,
  hasGroup: boolean,
): string {
  if (!hasIommufd) return 'this kernel has no iommufd for it';
  if (!hasGroup) return 'this kernel has no groups for it';
  const hasToken = devices.some(
    ({ device, options }) => device?.physfn !== undefined && options['vf-token'] !== undefined,
  );
  if (hasToken && isOlderThan(kernelRelease(context.roots), 6, 18))
    return 'group is better: before Linux 6.18 a VF token cannot be given by cdev';
  if (devices.filter(({ device }) => device?.bus === 'pci').length > 1)
    return 'group is better: iommufd does not map BARs, so the devices cannot reach each other';
  return 'group and iommufd do the same for it, but a limit on locked memory counts for each process with group, for all of a user’s guests with iommufd';
}

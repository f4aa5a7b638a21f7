/** Rules about SR-IOV: physical functions that have VFs, and VFs whose physical function has a user. */
import { join } from 'node:path';
import { isUuid } from '../../uuid.js';
import { tokenProblem } from '../cdev.js';
import type { HostContext } from '../context.js';
import type { SysfsDevice } from '../sysfs.js';
import { fileSays, linkSays, says } from './evidence.js';
import { type CheckFinding, fails, ok, unknown, warning } from './finding.js';
import type { CheckedDevice, Rule } from './subject.js';

export const sriov: Rule<CheckedDevice> = {
  name: 'sr-iov',
  check({ device, pci }, { context }) {
    const sriovRecord = pci()?.sriov;
    if (device === undefined || sriovRecord?.role !== 'physfn') return undefined;
    const { numVfs, virtfns } = sriovRecord;
    const file = join(device.path, 'sriov_numvfs');
    const evidence = [fileSays(file)];
    if (numVfs === 0) return ok('it has no VFs', { evidence });
    const vfs = virtfns.map((name) => describe(context, name));
    const text = `it has ${numVfs} ${numVfs === 1 ? 'VF' : 'VFs'}: ${vfs.join(', ')}`;
    const commands = [`echo 0 > ${context.sysfs.path('bus/pci/devices', device.name, 'sriov_numvfs')}`];
    return warning(text, {
      why: device.isVfio
        ? 'the guest can disturb its VFs and see their traffic; each VF needs the token that the machine with the physical function has set'
        : `its VFs go when ${device.driver ?? 'its driver'} releases it, whoever uses them`,
      evidence,
      commands,
      advice: 'the command removes the VFs',
    });
  },
};

function describe({ sysfs }: HostContext, name: string): string {
  if (!sysfs.exists('bus/pci/devices', name)) return name;
  return `${name} (${sysfs.pciDevice(name).driver ?? 'no driver'})`;
}

export const vfToken: Rule<CheckedDevice> = {
  name: 'vf-token',
  check({ device, options, interface: how }, { context }) {
    const token = options['vf-token'];
    if (device === undefined || device.bus !== 'pci') return undefined;
    if (token !== undefined && !isUuid(token))
      return fails(`vf-token: '${token}' is not a UUID`, {
        why: 'the kernel takes a UUID only',
        evidence: [says('option vf-token', token)],
        advice: 'use the token that the owner of the physical function has set',
      });
    if (token !== undefined && how === 'iommufd') {
      const problem = tokenProblem(context);
      if (problem !== undefined)
        return fails('no token can be given by cdev', {
          why: problem,
          evidence: [fileSays(join(context.roots.proc, 'sys/kernel/osrelease'))],
          advice: 'use interface group',
        });
    }
    return device.physfn === undefined
      ? physicalFunction(device, token)
      : virtualFunction(context, device, device.physfn, token);
  },
};

/** The first user of a physical function sets the token. */
function physicalFunction(device: SysfsDevice, token: string | undefined): CheckFinding | undefined {
  if (token === undefined || device.virtfns.length > 0) return undefined;
  const folder = join(device.path, 'sriov_numvfs');
  return unknown('whether it takes a token is the kernel’s to say', {
    why: 'only physical functions with SR-IOV and their VFs take one',
    evidence: [fileSays(folder)],
  });
}

function virtualFunction(
  { sysfs }: HostContext,
  device: SysfsDevice,
  physfn: string,
  token: string | undefined,
): CheckFinding {
  const pf = sysfs.exists('bus/pci/devices', physfn) ? sysfs.pciDevice(physfn) : undefined;
  const evidence = [
    linkSays(join(device.path, 'physfn')),
    linkSays(sysfs.path('bus/pci/devices', physfn, 'driver')),
  ];
  if (pf?.isVfio !== true) {
    const owner = pf?.driver ?? 'no driver';
    if (token === undefined)
      return ok(`no token is needed: ${owner} has its physical function`, { evidence });
    return fails(`a token is given, and ${owner} of the host has its physical function ${physfn}`, {
      why: 'the kernel then refuses any token (EINVAL)',
      evidence,
      advice: 'leave vf-token out',
    });
  }
  if (token !== undefined)
    return unknown(`only the kernel knows whether the token is that of ${physfn}`, {
      why: 'a wrong token is refused (EACCES)',
      evidence,
    });
  return fails(`it needs the token of its physical function ${physfn}, which ${pf.driver} has`, {
    why: 'the owner of the physical function can disturb its VFs, so both have to know one UUID (EACCES without it)',
    evidence,
    advice: `append ,vf-token=UUID with the UUID that the machine with ${physfn} was given; a run of ${physfn} with vf-token=UUID sets it`,
  });
}

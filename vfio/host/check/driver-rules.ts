/** Rules about a device itself: that it is there, and that a VFIO driver has it or can have it. */
import { join } from 'node:path';
import { SysError } from '../../../sys/error.js';
import { MDEV_PREFIX } from '../../addresses.js';
import { configOption, hasDriver, missingDriver } from '../binding.js';
import type { HostContext } from '../context.js';
import { moduleState } from '../kernel-modules.js';
import { listMdevTypes } from '../mdev.js';
import type { SysfsDevice } from '../sysfs.js';
import { isBridge } from '../usable.js';
import { findVfType, withoutType } from '../vf-type.js';
import { bindCommands, boundToHost } from '../viability.js';
import { folderSays, linkSays, says } from './evidence.js';
import { type CheckFinding, fails, ok } from './finding.js';
import type { CheckedDevice, Rule } from './subject.js';

const VFIO_PCI = 'vfio-pci';

export const device: Rule<CheckedDevice> = {
  name: 'device',
  check({ address, device: found, missing }, { context }) {
    if (found !== undefined) {
      const evidence = [says(found.path, 'there')];
      return ok(found.id === undefined ? 'it is there' : `it is there: ${found.id}`, { evidence });
    }
    if (missing === undefined) return mdevType(context, address.slice(MDEV_PREFIX.length));
    return fails(`there is no ${missing.target}`, {
      evidence: [
        says(missing.hint?.replace(/^there is no ([^;]*).*$/s, '$1') ?? missing.target, 'no such file'),
      ],
      why: 'nothing can be assigned in its place',
      advice:
        'tsvisor devices lists those that are; after a change of hardware: echo 1 > /sys/bus/pci/rescan',
    });
  },
  refusal: ({ missing }) => missing,
};

/** A mediated device that is yet to be made. */
function mdevType({ sysfs }: HostContext, type: string): CheckFinding {
  const parents = sysfs.path('class/mdev_bus');
  const all = listMdevTypes(sysfs);
  const offers = all.filter((offer) => offer.type === type || offer.name === type);
  const why = 'the mediated device cannot be made';
  if (offers.length === 0) {
    const known = all.map((offer) => `${offer.type} of ${offer.parent}`).join(', ');
    return fails(`no device offers the type ${type}`, {
      why,
      evidence: [folderSays(parents)],
      advice:
        known === '' ? 'load a driver that offers types of mediated devices' : `the types are: ${known}`,
    });
  }
  const evidence = offers.map(({ path, availableInstances }) =>
    says(join(path, 'available_instances'), String(availableInstances)),
  );
  const free = offers.find(({ availableInstances }) => availableInstances > 0);
  if (free !== undefined) return ok(`${free.parent} can make one`, { evidence });
  return fails(`${offers.map(({ parent }) => parent).join(', ')} has no instance of ${type} left`, {
    why,
    evidence,
    advice: 'remove a mediated device, or choose a smaller type',
  });
}

export const driver: Rule<CheckedDevice> = {
  name: 'driver',
  check({ device: found, options }, { context }) {
    if (found === undefined) return undefined;
    const evidence = [linkSays(join(found.path, 'driver'))];
    if (options['vgpu-type'] !== undefined || isUntyped(found)) return vfType(found, options, evidence);
    if (found.isVfio) return ok(`the VFIO driver ${found.driver} has it`, { evidence });
    if (found.isBridge)
      return fails('it is a bridge', {
        why: 'no VFIO driver takes a bridge',
        evidence,
        advice: 'assign the functions on its secondary bus',
      });
    if (found.bus !== 'pci')
      return fails('no VFIO driver has it', {
        why: 'only VFIO drivers give a device to programs',
        evidence,
        advice: `bind it to a VFIO driver of the ${found.bus} bus`,
      });
    if (options.bind !== undefined) return bindOption(context, options.bind, evidence);
    return notBound(context, found, evidence);
  },
  refusal({ device: found, options }, { context }) {
    if (found === undefined) return undefined;
    if (found.isBridge) return isBridge(found);
    const refused = vfTypeError(found, options);
    if (refused !== undefined) return refused;
    return options.bind === undefined || found.bus !== 'pci'
      ? boundToHost(context.sysfs, found)
      : missingDriver(context.roots, found.name, options.bind);
  },
};

type Evidence = CheckFinding['evidence'];

/** Why a VF for vGPUs cannot have the type that is asked for, or needs one; undefined if it can. */
function vfTypeError(found: SysfsDevice, options: CheckedDevice['options']): SysError | undefined {
  const wanted = options['vgpu-type'];
  try {
    if (wanted === undefined) return withoutType(found);
    findVfType(found, wanted);
    return undefined;
  } catch (error) {
    if (error instanceof SysError) return error;
    throw error;
  }
}

const isUntyped = (found: SysfsDevice): boolean => vfTypeError(found, {}) !== undefined;

function vfType(found: SysfsDevice, options: CheckedDevice['options'], evidence: Evidence): CheckFinding {
  const error = vfTypeError(found, options);
  if (error === undefined)
    return ok(`option vgpu-type makes it a vGPU of ${found.driver ?? 'its driver'} for the run`, {
      evidence,
    });
  return fails('it cannot be a vGPU as it is asked for', {
    why: 'a VF for vGPUs is a device for VFIO once it has a type',
    evidence,
    advice: error.hint ?? error.message,
  });
}

/** The driver to which option `bind` gives the device for the run. */
function bindOption({ sysfs, roots }: HostContext, wanted: string, evidence: Evidence): CheckFinding {
  const isLoaded = hasDriver(sysfs, wanted);
  const folder = sysfs.path('bus/pci/drivers', wanted);
  const all = [...evidence, says(folder, isLoaded ? 'there' : 'no such folder')];
  if (isLoaded) return ok(`option bind gives it to ${wanted} for the run`, { evidence: all });
  return absentDriver(roots, wanted, all);
}

function absentDriver(roots: HostContext['roots'], wanted: string, evidence: Evidence): CheckFinding {
  const why = 'only VFIO drivers give a device to programs';
  if (moduleState(roots, wanted) === 'absent')
    return fails(`this kernel was built without the driver ${wanted} (${configOption(wanted)})`, {
      why,
      evidence: [...evidence, says(roots.modules, `the running kernel’s modules do not have ${wanted}`)],
      advice: 'use a kernel that has it',
    });
  // What is no name would be a shell's to interpret.
  const commands = /^[\w-]+$/.test(wanted) ? [`modprobe ${wanted}`] : [];
  return fails(`the driver ${wanted} is not loaded`, { why, evidence, commands });
}

function notBound(context: HostContext, found: SysfsDevice, evidence: Evidence): CheckFinding {
  const { sysfs, roots } = context;
  if (!sysfs.exists('bus/pci/drivers', VFIO_PCI) && moduleState(roots, VFIO_PCI) === 'absent')
    return absentDriver(roots, VFIO_PCI, evidence);
  const text = found.driver === undefined ? 'no driver has it' : `the host uses it (driver ${found.driver})`;
  return fails(text, {
    why: 'only VFIO drivers give a device to programs',
    evidence,
    commands: bindCommands(sysfs, found),
    advice: `or: tsvisor bind ${found.name}; or let a run take it: ${found.name},bind=${VFIO_PCI}`,
  });
}

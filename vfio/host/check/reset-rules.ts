/** Rules about a device's power, and about the reset between two guests. */
import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { pciAddress } from '../../addresses.js';
import { list } from '../sysfs.js';
import { fileSays, says } from './evidence.js';
import { type CheckEvidence, type CheckFinding, fails, ok, unknown, warning } from './finding.js';
import type { CheckedDevice, CheckedMachine, Rule } from './subject.js';

/** Reset methods that reach this function only, and leave nothing of its state. */
const WHOLE: readonly string[] = ['device_specific', 'acpi', 'flr', 'af_flr', 'bus', 'cxl_bus'];

export const reset: Rule<CheckedDevice> = {
  name: 'reset',
  check({ device, pci }, machine) {
    const record = pci();
    if (device === undefined || record === undefined) return undefined;
    const evidence = [fileSays(join(device.path, 'reset_method'))];
    const methods = record.resetMethods;
    if (methods === 'unknown')
      return unknown('this kernel does not list reset methods', {
        why: 'Linux lists them from 5.15 on',
        evidence,
      });
    const whole = methods.find((method) => WHOLE.includes(method));
    if (whole !== undefined) return ok(`it can be reset alone (${methods.join(', ')})`, { evidence });
    const known =
      methods.length === 0 ? 'it has no reset of its own' : `its only own reset is ${methods.join(', ')}`;
    return withSlot(known, device.path, machine, evidence);
  },
};

/** VFIO's hot reset of the slot or bus is what remains; the kernel allows it if all functions that it reaches are ours. */
function withSlot(
  known: string,
  path: string,
  { devices }: CheckedMachine,
  evidence: readonly CheckEvidence[],
): CheckFinding {
  const bus = dirname(path);
  const stale = 'what a guest has left in the device stays for the next one, or for the host';
  if (pciAddress(basename(bus)) === undefined)
    return warning(`${known}, and it is on a root bus, which has none`, {
      why: stale,
      evidence: [...evidence, says(bus, 'no bridge')],
    });
  const affected = functionsBelow(bus);
  const ours = new Set(devices.map((each) => each.device?.name));
  const others = affected.filter((name) => !ours.has(name));
  const all = [...evidence, says(bus, affected.join(' '))];
  if (others.length === 0) {
    const shared = affected.length > 1 ? `, with ${affected.length - 1} more of this machine` : '';
    return ok(`${known}; its slot or bus can be reset${shared}`, { evidence: all });
  }
  return warning(`${known}; a reset of its slot or bus takes ${others.join(', ')} along`, {
    why: `so it is reset only if these are assigned to the same machine; else ${stale}`,
    evidence: all,
    advice: `assign ${others.join(', ')}, too`,
  });
}

/** PCI functions below a bridge's folder, at any depth. */
function functionsBelow(path: string): string[] {
  const names = (list(path) ?? []).filter((name) => pciAddress(name) === name);
  return names.flatMap((name) => [name, ...functionsBelow(join(path, name))]);
}

export const powerState: Rule<CheckedDevice> = {
  name: 'power-state',
  check({ device, pci }, { context }) {
    const record = pci();
    if (device === undefined || record === undefined) return undefined;
    const [stateFile, allowedFile] = [join(device.path, 'power_state'), join(device.path, 'd3cold_allowed')];
    const evidence = [fileSays(stateFile), fileSays(allowedFile)];
    const isOff = record.powerState === 'D3cold';
    const folder = context.sysfs.path('bus/pci/devices', device.name);
    const keepOn = [`echo 0 > ${folder}/d3cold_allowed`, `echo on > ${folder}/power/control`];
    if (isDead(device.path) && device.physfn === undefined) {
      const config = says(join(device.path, 'config'), 'all ones');
      return fails(isOff ? 'it is in D3cold, and does not come back' : 'it does not answer', {
        why: 'a device whose configuration space reads as ones cannot be used (EIO)',
        evidence: [...evidence, config],
        commands: [...keepOn, `echo 1 > ${folder}/remove`, 'echo 1 > /sys/bus/pci/rescan'],
        advice: 'if it still does not answer, only a power cycle of the host helps',
      });
    }
    if (record.powerState === undefined)
      return unknown('this kernel does not show its power state', {
        why: 'Linux shows it from 5.12 on',
        evidence,
      });
    if (!isOff) return ok(`it answers, in ${record.powerState}`, { evidence });
    return warning('it is in D3cold: the kernel wakes it when it is opened', {
      why: 'some devices lose their firmware’s settings there, or do not come back',
      evidence,
      commands: keepOn,
      advice: 'the commands keep it powered',
    });
  },
};

/** Whether what can be read of its configuration space is ones. A VF's IDs are, by the specification. */
function isDead(path: string): boolean {
  try {
    const config = readFileSync(join(path, 'config')).subarray(0, 64);
    return config.length > 0 && config.every((byte) => byte === 0xff);
  } catch {
    return false;
  }
}

/** The machine that figures come from. */
import { readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { openDoor } from '../sys/open-door.js';

export interface HostDescription {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryMib: number;
  readonly kernel: string;
  readonly node: string;
  readonly v8: string;
  /** The library that calls KVM_RUN with `--ffi auto`. */
  readonly door: string;
  /** What runs the guest: the kernel's module, and whether this machine is a guest itself. */
  readonly kvm: string;
  /** Of 1, 5 and 15 minutes, before the run. */
  readonly load: readonly number[];
  readonly at: string;
}

/** The module's name says how guests run: kvm_intel, kvm_amd, or one with a way of its own. */
function kvmKind(): string {
  const modules = readdirSync('/sys/module').filter((name) => name.startsWith('kvm_'));
  const flags = readFileSync('/proc/cpuinfo', 'utf8');
  const extension = ['vmx', 'svm'].find((flag) => new RegExp(`\\b${flag}\\b`).test(flags));
  return [
    modules.join(' and ') || 'no module for a processor',
    extension ?? 'neither vmx nor svm',
    /\bhypervisor\b/.test(flags) ? 'in a virtual machine' : 'on bare metal',
  ].join(', ');
}

export const describeHost = (): HostDescription => ({
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
  memoryMib: Math.round(totalmem() / 2 ** 20),
  kernel: release(),
  node: process.version,
  v8: process.versions.v8,
  door: openDoor('auto').name,
  kvm: kvmKind(),
  load: loadavg().map((each) => Number(each.toFixed(2))),
  at: new Date().toISOString(),
});

/** In one line. */
export const hostText = ({ cpu, cores, kernel, node, door, kvm, load }: HostDescription): string =>
  `${cpu}, ${cores} cores, Linux ${kernel}, KVM: ${kvm}, Node ${node}, ${door}, load ${load.join(' ')}`;

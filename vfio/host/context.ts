import { join } from 'node:path';
import { SysError } from '../../sys/error.js';
import { HOST_ROOTS, type HostRoots } from './roots.js';
import { type HostGroup, Sysfs, type SysfsDevice } from './sysfs.js';
import { linux, type VfioSystem } from './system.js';

/** The host that a provider uses: this one, or a test's. */
export interface HostContext {
  /** @internal The system calls; the tests' scripted kernel replaces them. */
  readonly system: VfioSystem;
  /** Devices and IOMMU groups. */
  readonly sysfs: Sysfs;
  /** Mount points of the kernel's file systems. */
  readonly roots: HostRoots;
}

export function hostContext(parts: Partial<HostContext> = {}): HostContext {
  const roots = parts.roots ?? HOST_ROOTS;
  return { roots, system: parts.system ?? linux, sysfs: parts.sysfs ?? new Sysfs(roots.sys) };
}

/** Path of a VFIO file: `/dev/vfio/vfio`. */
export const vfioPath = ({ roots }: Pick<HostContext, 'roots'>, ...names: string[]): string =>
  join(roots.dev, 'vfio', ...names);

/** Path of a group's file. */
export const groupPath = (context: Pick<HostContext, 'roots'>, { number, isNoiommu }: HostGroup): string =>
  vfioPath(context, isNoiommu ? `noiommu-${number}` : String(number));

/** Paths of the files by which a process can have a device: its group's, and its cdev. */
export const deviceNodes = (
  context: Pick<HostContext, 'roots'>,
  { cdev }: SysfsDevice,
  group: HostGroup | undefined,
): readonly string[] => [
  ...(group === undefined ? [] : [groupPath(context, group)]),
  ...(cdev === undefined ? [] : [vfioPath(context, 'devices', cdev)]),
];

/** The same error with the hint that `hintOf` returns; unchanged if it returns none, or for any other error. */
export function explain(error: unknown, hintOf: (error: SysError) => string | undefined): unknown {
  if (!(error instanceof SysError)) return error;
  const hint = hintOf(error);
  if (hint === undefined) return error;
  const { call, target, errno, cause } = error;
  return new SysError({ call, target, errno, hint, cause });
}

import { join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { kernelRelease } from './kernel-release.js';
import type { HostRoots } from './roots.js';
import { list, text } from './sysfs.js';

/** Availability of a kernel module. */
export type ModuleState = 'present' | 'loadable' | 'absent' | 'unknown';

/** @param name the module's file name: `vfio-pci`, `vfio_iommu_type1`; hyphens and underscores are equivalent */
export function moduleState(roots: HostRoots, name: string): ModuleState {
  const plain = name.replaceAll('-', '_');
  if (list(join(roots.sys, 'module', plain)) !== undefined) return 'present';
  const release = kernelRelease(roots) ?? '';
  const folder = join(roots.modules, release);
  const inTable = (table: string | undefined): boolean =>
    (table ?? '').split('\n').some((line) => {
      const file = /([^/]+)\.ko/.exec(line.split(':')[0] as string)?.[1];
      return file?.replaceAll('-', '_') === plain;
    });
  // A built-in module without parameters has no folder in /sys/module.
  const builtin = text(join(folder, 'modules.builtin'));
  const loadable = text(join(folder, 'modules.dep'));
  if (inTable(builtin)) return 'present';
  if (inTable(loadable)) return 'loadable';
  return builtin === undefined && loadable === undefined ? 'unknown' : 'absent';
}

/**
 * Why a VFIO file does not exist, and how to fix that.
 * @param module the module that creates the file
 * @param option the kernel option of the module
 */
export function missingModuleHint(roots: HostRoots, module: string, option: string): string {
  switch (moduleState(roots, module)) {
    case 'present':
      return `${module} is loaded, but there is no such file: is /dev a devtmpfs, and visible in here?`;
    case 'loadable':
      return `modprobe ${module}`;
    case 'unknown':
      return `modprobe ${module} (if this kernel has it: ${option})`;
    case 'absent':
      return `this kernel was built without ${option}: use one that has it`;
  }
}

/** ENODEV for a file that does not exist. */
export function absent(target: string, hint: string, cause: unknown): SysError {
  return new SysError({ call: 'open', target, errno: errno.ENODEV, hint, cause });
}

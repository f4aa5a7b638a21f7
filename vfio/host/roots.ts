/** Mount points of the kernel's file systems; tests use other folders. */
export interface HostRoots {
  /** Mount point of sysfs. */
  readonly sys: string;
  /** Mount point of procfs. */
  readonly proc: string;
  /** Folder of the device files. */
  readonly dev: string;
  /** Folder of the kernels' modules. */
  readonly modules: string;
}

/** The roots of this host. */
export const HOST_ROOTS: HostRoots = { sys: '/sys', proc: '/proc', dev: '/dev', modules: '/lib/modules' };

/** Mount points of the kernel's file systems; tests use other folders. */
export interface HostRoots {
  readonly sys: string;
  readonly proc: string;
  readonly dev: string;
  /** Folder of the kernels' modules. */
  readonly modules: string;
}

export const HOST_ROOTS: HostRoots = { sys: '/sys', proc: '/proc', dev: '/dev', modules: '/lib/modules' };

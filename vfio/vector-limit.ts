import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';

/**
 * VFIO_DEVICE_SET_IRQS asked for more vectors than the host has. Linux then returns how many it has, a positive number,
 * and has enabled none; a second request for that many can succeed.
 */
export class VectorLimit extends SysError {
  /** How many vectors the host has, at least 1. */
  readonly available: number;

  /** @param target names the device and the IRQ index. @param wanted how many vectors were asked for */
  constructor(target: string, wanted: number, available: number) {
    const hint = `the host has ${available} of these ${wanted} vectors, and enabled none`;
    super({ call: 'VFIO_DEVICE_SET_IRQS', target, errno: errno.ENOSPC, hint });
    this.available = available;
  }
}

/** How many vectors the host has instead, if `error` is a {@link VectorLimit} of this or another copy of the package. */
export function availableVectors(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('available' in error)) return undefined;
  return typeof error.available === 'number' ? error.available : undefined;
}

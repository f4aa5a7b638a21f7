import { join } from 'node:path';
import type { HostRoots } from './roots.js';
import { text } from './sysfs.js';

/** The running kernel's release, `6.12.95-amd64`; undefined if /proc does not report it. */
export const kernelRelease = ({ proc }: HostRoots): string | undefined =>
  text(join(proc, 'sys/kernel/osrelease'));

/** Whether a release is certainly older than MAJOR.MINOR. */
export function isOlderThan(release: string | undefined, major: number, minor: number): boolean {
  const [, ours, point] = /^(\d+)\.(\d+)/.exec(release ?? '') ?? [];
  if (ours === undefined) return false;
  return Number(ours) < major || (Number(ours) === major && Number(point) < minor);
}

/** File systems that the host has mounted from a device: it cannot lose that device. */
import { realpathSync } from 'node:fs';
import { basename, join, sep } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { printable } from '../../sys/printable.js';
import type { HostContext } from './context.js';
import { list, type SysfsDevice, text } from './sysfs.js';

interface Mount {
  readonly point: string;
  /** Folders in sysfs of the block devices that it is on, those below a mapped device among them. */
  readonly devices: readonly string[];
}

/** Device mappings upon device mappings: more than anybody stacks. */
const MOST_LEVELS = 8;

/** The mounts of this process's mount namespace that are on a block device. */
export function readMounts({ sysfs, roots }: Pick<HostContext, 'sysfs' | 'roots'>): readonly Mount[] {
  const lines = (text(join(roots.proc, 'self/mountinfo')) ?? '').split('\n');
  return lines.flatMap((line) => {
    const [, number = '', point = '', source = ''] =
      /^\d+ \d+ (\d+:\d+) \S+ (\S+) .*? - \S+ (\S+)/.exec(line) ?? [];
    // Some file systems, btrfs among them, have a number of no device: their source has its name.
    const links = [sysfs.path('dev/block', number), sysfs.path('class/block', basename(source))];
    const devices = point === '' ? [] : links.flatMap((link) => withSlaves(link, MOST_LEVELS));
    return devices.length === 0 ? [] : [{ point, devices }];
  });
}

/** The folder of a block device, and of those that it is mapped onto. */
function withSlaves(link: string, levels: number): string[] {
  const folder = real(link);
  if (folder === undefined || levels === 0) return [];
  const slaves = list(join(folder, 'slaves')) ?? [];
  return [folder, ...slaves.flatMap((name) => withSlaves(join(folder, 'slaves', name), levels - 1))];
}

/** Where file systems of a device are mounted, each once. @param path its folder in sysfs, resolved */
export function mountPointsOn(mounts: readonly Mount[], path: string): string[] {
  const points = mounts
    .filter(({ devices }) => devices.some((folder) => folder.startsWith(path + sep)))
    .map(({ point }) => point);
  return [...new Set(points)];
}

/** @throws SysError EBUSY naming the places where file systems of one of the devices are mounted */
export function requireUnmounted(
  host: Pick<HostContext, 'sysfs' | 'roots'>,
  call: string,
  devices: readonly SysfsDevice[],
): void {
  const mounts = readMounts(host);
  for (const { name, path } of devices) {
    const points = mountPointsOn(mounts, path);
    if (points.length === 0) continue;
    const hint = `the host has file systems of it mounted, at ${printable(points.join(', '))}: unmount them first`;
    throw new SysError({ call, target: name, errno: errno.EBUSY, hint });
  }
}

function real(link: string): string | undefined {
  try {
    return realpathSync(link);
  } catch {
    return undefined;
  }
}

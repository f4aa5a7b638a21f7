import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { HostRoots } from './roots.js';
import { list, text } from './sysfs.js';

/** A process that has a file open. */
export interface Holder {
  readonly pid: number;
  /** Its name, as ps shows it. */
  readonly name: string;
}

/** Processes that have a path open, as far as this user may look: root sees all of its pid namespace. */
export function findHolders(roots: HostRoots, path: string): Holder[] {
  const pids = (list(roots.proc) ?? []).filter((name) => /^\d+$/.test(name));
  return pids
    .filter((pid) => {
      const folder = join(roots.proc, pid, 'fd');
      return (list(folder) ?? []).some((fd) => pointsTo(join(folder, fd), path));
    })
    .map((pid) => ({ pid: Number(pid), name: text(join(roots.proc, pid, 'comm')) ?? '?' }))
    .sort((a, b) => a.pid - b.pid);
}

function pointsTo(link: string, path: string): boolean {
  try {
    return readlinkSync(link) === path;
  } catch {
    return false; // closed, or ended, meanwhile
  }
}

/** Who holds a path, in words. */
export function holdersHint(roots: HostRoots, path: string): string {
  const holders = findHolders(roots, path);
  if (holders.length === 0) return 'another process, which this user may not see, has it open';
  const names = holders.map(({ pid, name }) =>
    pid === process.pid ? 'this process itself' : `process ${pid} (${name})`,
  );
  return `held by ${names.join(' and ')}`;
}

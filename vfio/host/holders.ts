import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { HostRoots } from './roots.js';
import { list, text } from './sysfs.js';

/** A process that holds a file open. */
export interface Holder {
  readonly pid: number;
  /** Its name, as ps shows it. */
  readonly name: string;
}

/** Processes that hold one of `paths` open, as far as this user may see: root sees all of its PID namespace. */
export function findHolders(roots: HostRoots, paths: readonly string[]): Holder[] {
  const pids = (list(roots.proc) ?? []).filter((name) => /^\d+$/.test(name));
  return pids
    .filter((pid) => {
      const folder = join(roots.proc, pid, 'fd');
      return (list(folder) ?? []).some((fd) => pointsTo(join(folder, fd), paths));
    })
    .map((pid) => ({ pid: Number(pid), name: text(join(roots.proc, pid, 'comm')) ?? '?' }))
    .sort((a, b) => a.pid - b.pid);
}

function pointsTo(link: string, paths: readonly string[]): boolean {
  try {
    return paths.includes(readlinkSync(link));
  } catch {
    return false; // closed, or the process ended, in the meantime
  }
}

/** The processes that hold one of `paths` open, as text. */
export function holdersHint(roots: HostRoots, paths: readonly string[]): string {
  const holders = findHolders(roots, paths);
  if (holders.length === 0) return 'it is open in another process, which this user cannot see';
  return describeHolders(holders);
}

export function describeHolders(holders: readonly Holder[]): string {
  const names = holders.map(({ pid, name }) =>
    pid === process.pid ? 'this process itself' : `process ${pid} (${name})`,
  );
  return `held by ${names.join(' and ')}`;
}

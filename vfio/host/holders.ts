import { existsSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { printable } from '../../sys/printable.js';
import type { HostRoots } from './roots.js';
import { list, text } from './sysfs.js';

/** A process that holds a file open. */
export interface Holder {
  /** Its number in this process's PID namespace. */
  readonly pid: number;
  /** Its name, as ps shows it: it chose that itself, and may have put anything into it. */
  readonly name: string;
}

/** Who holds which file open. */
export interface HolderScan {
  /** By path; without an entry for a path that nobody seems to have open. */
  readonly holders: ReadonlyMap<string, readonly Holder[]>;
  /** False if this user may not see what some process has open. */
  readonly isComplete: boolean;
}

/** Looks for processes that hold one of `paths` open: root sees all of its PID namespace. */
export function scanHolders(roots: HostRoots, paths: readonly string[]): HolderScan {
  const holders = new Map<string, Holder[]>();
  let isComplete = true;
  // Without a file that could be open, no process has to be looked at.
  if (paths.length === 0) return { holders, isComplete };
  const pids = (list(roots.proc) ?? []).filter((name) => /^\d+$/.test(name)).map(Number);
  for (const pid of pids.sort((a, b) => a - b)) {
    const folder = join(roots.proc, String(pid), 'fd');
    const fds = list(folder);
    // A process that has ended in the meantime holds nothing.
    if (fds === undefined && existsSync(folder)) isComplete = false;
    const targets = new Set((fds ?? []).map((fd) => linkTarget(join(folder, fd))));
    for (const path of new Set(paths.filter((each) => targets.has(each)))) {
      const holder = { pid, name: text(join(roots.proc, String(pid), 'comm')) ?? '?' };
      holders.set(path, [...(holders.get(path) ?? []), holder]);
    }
  }
  return { holders, isComplete };
}

/** Processes that hold one of `paths` open, as far as this user may see. */
export function findHolders(roots: HostRoots, paths: readonly string[]): Holder[] {
  const found = [...scanHolders(roots, paths).holders.values()].flat();
  return [...new Map(found.map((holder) => [holder.pid, holder])).values()].sort((a, b) => a.pid - b.pid);
}

function linkTarget(link: string): string | undefined {
  try {
    return readlinkSync(link);
  } catch {
    return undefined; // closed, or the process ended, in the meantime
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
    pid === process.pid ? 'this process itself' : `process ${pid} (${printable(name)})`,
  );
  return `held by ${names.join(' and ')}`;
}

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Open descriptors of the kinds this package opens: eventfds, epolls, KVM and VFIO files, memfds, devices. */
export function openFds(): string[] {
  const found: string[] = [];
  for (const number of readdirSync('/proc/self/fd')) {
    try {
      const target = readlinkSync(`/proc/self/fd/${number}`);
      if (/^(anon_inode:|\/dev\/(?!null|pts|tty)|\/memfd:)/.test(target)) found.push(`${number} ${target}`);
    } catch {
      // the directory listing's own descriptor is closed by now
    }
  }
  return found.sort();
}

/**
 * Number of threads of this process. A thread that was joined can be listed for a moment more: poll for its end.
 * @param name counts only those of that name
 */
export function threadCount(name?: string): number {
  const tids = readdirSync('/proc/self/task');
  if (name === undefined) return tids.length;
  return tids.filter((tid) => {
    try {
      return readFileSync(`/proc/self/task/${tid}/comm`, 'latin1').trim() === name;
    } catch {
      return false; // it ended since the folder was read
    }
  }).length;
}

/** Lines of /proc/self/maps for mappings of memfds and device files. */
export function mappedFiles(): string[] {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return lines.filter((line) => /(\/memfd:|anon_inode:)/.test(line));
}

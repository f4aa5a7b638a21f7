import { readFileSync, readlinkSync } from 'node:fs';

/** What identifies a process for as long as this machine runs: process ids are reused, also soon after a kill -9. */
function identity(pid: number | 'self'): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The program's name, field 2, may contain spaces and parentheses; the start time is field 22.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z') return undefined;
    return `${readlinkSync('/proc/self/ns/pid')} ${Number.parseInt(stat, 10)} ${fields[19]}`;
  } catch {
    return undefined;
  }
}

/** Text for files that belong to this process: a later process can tell from it whether this one still runs. */
export const ownerText = (): string => identity('self') ?? '';

/**
 * Whether the process that wrote {@link ownerText} has ended. False for one in another PID namespace, whose end cannot
 * be seen from here. Text that is none counts as that of an ended process.
 */
export function hasOwnerEnded(text: string): boolean {
  const [namespace, pid] = text.split(' ');
  if (!/^pid:\[\d+\] \d+ \d+$/.test(text)) return true;
  if (namespace !== readlinkSync('/proc/self/ns/pid')) return false;
  return identity(Number(pid)) !== text;
}

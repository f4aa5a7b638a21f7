import { join } from 'node:path';
import type { HostRoots } from './roots.js';
import { text } from './sysfs.js';

/** The limit of locked memory, and its use, in bytes. */
export interface LockedMemory {
  /** RLIMIT_MEMLOCK, soft; Infinity for none. */
  readonly limit: number;
  /** RLIMIT_MEMLOCK, hard: the soft limit can be raised to it without privileges. */
  readonly hardLimit: number;
  /** Memory that already counts against the limit: from mlock and from type1's DMA maps. */
  readonly locked: number;
}

/** Undefined if /proc does not report it. */
export function readLockedMemory(roots: HostRoots): LockedMemory | undefined {
  const limits = text(join(roots.proc, 'self/limits'));
  const row = /^Max locked memory\s+(\S+)\s+(\S+)\s+bytes/m.exec(limits ?? '');
  if (row === null) return undefined;
  const bytes = (word: string | undefined): number => (word === 'unlimited' ? Infinity : Number(word));
  const status = text(join(roots.proc, 'self/status'));
  const locked = Number(/^VmLck:\s+(\d+) kB/m.exec(status ?? '')?.[1] ?? 0) * 1024;
  return { limit: bytes(row[1]), hardLimit: bytes(row[2]), locked };
}

const MIB = 2 ** 20;
export const inMib = (bytes: number): string =>
  bytes === Infinity ? 'unlimited' : `${Number((bytes / MIB).toFixed(bytes < MIB ? 2 : 0))} MiB`;

/**
 * Why a DMA map of `bytes` failed for lack of memory: the limit, with the amount needed and how to raise it, or the
 * host's free memory. Memory mapped for DMA is locked, so the limit must cover guest RAM and mapped BARs.
 */
export function noMemoryHint(roots: HostRoots, bytes: number): string {
  const memory = readLockedMemory(roots);
  if (memory === undefined || memory.locked + bytes <= memory.limit) {
    return `the kernel could not pin ${inMib(bytes)}: is that much memory free (or, as huge pages, reserved)?`;
  }
  const need = memory.locked + bytes;
  const kib = Math.ceil(need / 1024);
  const within =
    need <= memory.hardLimit ? `ulimit -l ${kib}` : `prlimit --pid $$ --memlock=${kib * 1024} (as root)`;
  return (
    `locked memory: ${inMib(need)} are needed (${inMib(memory.locked)} are locked, ${inMib(bytes)} more are asked for), ` +
    `RLIMIT_MEMLOCK is ${inMib(memory.limit)} (hard limit ${inMib(memory.hardLimit)}).\n` +
    `    raise it before starting: ${within}; for good: "USER - memlock ${kib}" in /etc/security/limits.conf, ` +
    'LimitMEMLOCK= in a systemd unit; or give the process CAP_IPC_LOCK'
  );
}

/**
 * Which C library this process has, for loaders of native code, which have a build for each. They ask Node for a diagnostic
 * report, which takes each thread 2 to 8 ms, and contains the answer in one line.
 */
import { readFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import { getProcessData, setProcessData } from './thread-ahead.js';

const KEY = 'tsvisor.libc';

/** Whether it is glibc; undefined if that cannot be told without a report. */
function isGlibc(): boolean | undefined {
  const known = getProcessData(KEY);
  if (typeof known === 'boolean') return known;
  const found = hasGlibcMapped();
  if (isMainThread && found) setProcessData(KEY, found);
  return found;
}

/** A static program, or one of another C library, has no such file: then the report decides. */
function hasGlibcMapped(): true | undefined {
  try {
    const maps = readFileSync('/proc/self/maps', 'latin1');
    return (/\/libc\.so\.6$/m.test(maps) && !maps.includes('/ld-musl-')) || undefined;
  } catch {
    return undefined;
  }
}

/**
 * Runs `load`, during which `process.report` answers one question only: the header has a `glibcVersionRuntime` if the C library
 * is glibc. `load` must not wait for anything.
 */
export function withLibcKind<T>(load: () => T): T {
  const real = Object.getOwnPropertyDescriptor(process, 'report');
  if (real?.configurable !== true || isGlibc() !== true) return load();
  const report = { getReport: () => ({ header: { glibcVersionRuntime: 'glibc' } }) };
  Object.defineProperty(process, 'report', { configurable: true, enumerable: true, value: report });
  try {
    return load();
  } finally {
    Object.defineProperty(process, 'report', real);
  }
}

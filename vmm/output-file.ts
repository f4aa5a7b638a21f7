/**
 * Files that are written at the user's request. A regular file is replaced at once, so that a reader finds the old one or
 * the new one. Anything else is written through, never replaced: a rename would put a file where a device node, a FIFO
 * or a symbolic link was.
 */
import {
  accessSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  lstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fromNodeError, isErrno } from '../sys/error.js';
import { kindOfFile } from './file-kind.js';

const NEW_FILE_MODE = 0o666;
/** How long a reader of a FIFO may leave it full. */
const STALLED_MS = 5000;
const RETRY_MS = 5;

const HINTS: Readonly<Record<string, string>> = {
  ENXIO: 'nobody reads it: start the reader first',
  EAGAIN: `its reader has taken nothing for ${STALLED_MS / 1000} s`,
  EPIPE: 'its reader has closed it',
};

/** Why a file cannot be written there; undefined if it can, as far as that is known without opening it. */
export function outputFileProblem(path: string): string | undefined {
  if (path === '') return 'is empty';
  const stats = statSync(path, { throwIfNoEntry: false });
  const kind = stats === undefined ? undefined : kindOfFile(stats);
  if (kind !== undefined && kind !== 'a FIFO' && kind !== 'a character device') return `${path} is ${kind}`;
  if (path.endsWith('/')) return `${path} is the name of a directory`;
  const folder = dirname(path);
  const inside = statSync(folder, { throwIfNoEntry: false });
  if (inside?.isDirectory() !== true) return `there is no directory ${folder}`;
  try {
    accessSync(stats === undefined ? folder : path, constants.W_OK);
    return undefined;
  } catch (error) {
    return `${stats === undefined ? folder : path} cannot be written by this user: ${(error as { code: string }).code}`;
  }
}

/**
 * Writes the whole file; a failure leaves a regular file as it was. Blocks on nobody: a FIFO without a reader is an error.
 * @param what names the file in errors: `picture x.png`
 * @throws SysError of the failed call
 */
export async function writeOutputFile(path: string, bytes: Uint8Array, what: string): Promise<void> {
  try {
    const target = replaceable(path);
    if (target === undefined) await writeThrough(path, bytes);
    else replace(target, bytes);
  } catch (error) {
    const hint = error instanceof Error && 'code' in error ? HINTS[String(error.code)] : undefined;
    throw fromNodeError(error, 'write', what, hint);
  }
}

interface Replaceable {
  readonly path: string;
  /** Of the file that is there. */
  readonly stats: Stats | undefined;
}

/** The file to replace: the target, if `path` is a symbolic link; undefined for what has to be written through. */
function replaceable(path: string): Replaceable | undefined {
  const link = lstatSync(path, { throwIfNoEntry: false });
  if (link === undefined) return { path, stats: undefined };
  const stats = statSync(path, { throwIfNoEntry: false });
  // A dangling link: open(2) creates its target. Further names of a file would keep the old one.
  if (stats?.isFile() !== true || stats.nlink > 1) return undefined;
  if (!link.isSymbolicLink()) return { path, stats };
  const target = realpathSync(path);
  // Links of /proc and /dev/fd stand for an open file, which has to get the bytes.
  return /^\/(proc|dev)\//.test(path) || /^\/(proc|dev)\//.test(target) ? undefined : { path: target, stats };
}

function replace({ path, stats }: Replaceable, bytes: Uint8Array): void {
  // Unique and O_EXCL: what else has such a name is not ours.
  const part = join(dirname(path), `.${basename(path)}.${process.pid}.part`);
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = openSync(part, flags, NEW_FILE_MODE);
  try {
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
      if (stats !== undefined) keepOwner(fd, stats);
    } finally {
      closeSync(fd);
    }
    renameSync(part, path);
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}

/** The new file is whose the old one was, where this user may do that. */
function keepOwner(fd: number, { uid, gid, mode }: Stats): void {
  try {
    fchownSync(fd, uid, gid);
  } catch (error) {
    if (!isErrno(error, 'EPERM')) throw error;
  }
  fchmodSync(fd, mode & 0o7777);
}

async function writeThrough(path: string, bytes: Uint8Array): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC;
  const fd = openSync(path, flags | constants.O_NONBLOCK | constants.O_NOCTTY, NEW_FILE_MODE);
  try {
    let since = performance.now();
    for (let at = 0; at < bytes.length; ) {
      try {
        at += writeSync(fd, bytes, at);
        since = performance.now();
      } catch (error) {
        if (!isErrno(error, 'EAGAIN') || performance.now() - since > STALLED_MS) throw error;
        await wait(RETRY_MS);
      }
    }
  } finally {
    closeSync(fd);
  }
}

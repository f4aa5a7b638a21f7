/**
 * Files that the user names: guest images, kernels, initrds, configurations, plug-ins. Only regular files are read, and
 * only so much of them: a device or a FIFO can block this process, or never end. Read every such file through here.
 */
import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  type Stats,
  statSync,
} from 'node:fs';
import { isErrno } from '../sys/error.js';
import { kindOfFile } from './file-kind.js';

/** Above any kernel's, with its debug information. */
export const MOST_IMAGE_BYTES = 2 ** 30;
/** Above any configuration's. */
export const MOST_TEXT_BYTES = 16 * 2 ** 20;

const PIECE_BYTES = 1 << 20;

/** A file that is missing, unreadable, empty, too large, or no regular file. The message begins with its path. */
export class InputFileError extends Error {
  /** For matching: `EINPUTFILE`. */
  readonly code = 'EINPUTFILE';

  constructor(problem: string, cause?: unknown) {
    super(problem, cause === undefined ? {} : { cause });
    this.name = 'InputFileError';
  }
}

function explain(path: string, error: unknown): unknown {
  // Only what comes from fs: others have their own sentence.
  if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) return error;
  if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR'))
    return new InputFileError(`there is no file ${path}`, error);
  if (isErrno(error, 'EACCES') || isErrno(error, 'EPERM'))
    return new InputFileError(`${path} cannot be read by this user: ${error.code}`, error);
  return new InputFileError(`${path} cannot be read: ${error.code}`, error);
}

function checkStats(path: string, stats: Stats, mostBytes: number): void {
  const kind = kindOfFile(stats);
  if (kind !== undefined) {
    // Of a shell's <(command).
    const isPipe = kind === 'a FIFO' && /^\/(dev\/fd|proc)\//.test(path);
    const advice = isPipe ? ': save in one what the command prints' : '';
    throw new InputFileError(`${path} is ${kind}, and must be a regular file${advice}`);
  }
  if (stats.size > mostBytes) throw tooLarge(path, mostBytes);
}

const tooLarge = (path: string, mostBytes: number) =>
  new InputFileError(`${path} is larger than ${mostBytes >> 20} MiB, the most that is read`);

/** Why the file cannot be read; undefined if it can, as far as that is known without opening it. */
export function inputFileProblem(path: string, mostBytes = MOST_IMAGE_BYTES): string | undefined {
  try {
    checkStats(path, statSync(path), mostBytes);
    accessSync(path, constants.R_OK);
    return undefined;
  } catch (error) {
    return (explain(path, error) as Error).message;
  }
}

/**
 * Opens a regular file, calls `use` with its descriptor and size, and closes it.
 * @throws InputFileError, also for what `use` throws of `fs`
 */
export function withInputFile<T>(path: string, mostBytes: number, use: (fd: number, bytes: number) => T): T {
  try {
    // Nonblocking: opening a FIFO waits for a writer, and some files of /proc wait in read(2).
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    try {
      const stats = fstatSync(fd);
      checkStats(path, stats, mostBytes);
      return use(fd, stats.size);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw explain(path, error);
  }
}

/** Reads a whole file. The size that the kernel reports is not trusted: files of /proc have 0. @throws InputFileError */
export function readInputFile(path: string, mostBytes = MOST_IMAGE_BYTES): Uint8Array<ArrayBuffer> {
  return withInputFile(path, mostBytes, (fd, size) => {
    let bytes = new Uint8Array(size + 1);
    let length = 0;
    for (;;) {
      if (length === bytes.length) {
        if (length > mostBytes) throw tooLarge(path, mostBytes);
        const larger = new Uint8Array(Math.min(length + Math.max(length, PIECE_BYTES), mostBytes + 1));
        larger.set(bytes);
        bytes = larger;
      }
      const count = readSync(fd, bytes, length, bytes.length - length, null);
      length += count;
      if (count === 0) return bytes.subarray(0, length);
    }
  });
}

import { type errno, errnoName } from './errno.js';

/** Parts of a {@link SysError}. */
export interface SysErrorInit {
  /** The failed call: an ioctl, a libc function or a VFIO operation. */
  readonly call: string;
  /** What it was called on: a path, a device name, `fd 7`. */
  readonly target: string;
  /** Positive errno value. */
  readonly errno: number;
  /** What the user can do about it. */
  readonly hint?: string | undefined;
  /** The underlying error, as in Error.cause. */
  readonly cause?: unknown;
}

/**
 * A failed system call, or the same failure from a provider that follows Linux. Match on {@link SysError.code}, not the
 * text.
 */
export class SysError extends Error {
  /** The failed call: an ioctl, a libc function or a VFIO operation. */
  readonly call: string;
  /** What it was called on: a path, a device name, `fd 7`. */
  readonly target: string;
  /** Positive errno value. */
  readonly errno: number;
  /** The errno's name, as in Node's own errors: `EBUSY`. */
  readonly code: string;
  /** What the user can do about it; undefined if the errno suffices. */
  readonly hint: string | undefined;

  constructor(init: SysErrorInit) {
    const code = errnoName(init.errno);
    const hint = init.hint === undefined ? '' : `\n  hint: ${init.hint}`;
    super(
      `${init.call} on ${init.target}: ${code}${hint}`,
      init.cause === undefined ? {} : { cause: init.cause },
    );
    this.name = 'SysError';
    this.call = init.call;
    this.target = init.target;
    this.errno = init.errno;
    this.code = code;
    this.hint = init.hint;
  }
}

/** Converts a failure of Node's `fs` to a {@link SysError}; returns any other error unchanged. */
export function fromNodeError(error: unknown, call: string, target: string, hint?: string): unknown {
  if (!(error instanceof Error) || !('errno' in error) || typeof error.errno !== 'number') return error;
  return new SysError({ call, target, errno: Math.abs(error.errno), hint, cause: error });
}

/** Whether `error` has this errno name. Works across two copies of the package. */
export function isErrno(error: unknown, code: keyof typeof errno): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

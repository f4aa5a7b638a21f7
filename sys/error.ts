import { type errno, errnoName } from './errno.js';

/** What a {@link SysError} is made of. */
export interface SysErrorInit {
  /** The call that failed: an ioctl's name, a libc function, a vfio function. */
  readonly call: string;
  /** What it was called on: a path, a device name, `fd 7`. */
  readonly target: string;
  /** Positive errno value. */
  readonly errno: number;
  /** What the reader can do about it. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/**
 * A call into Linux, or into a provider that answers as Linux does, failed.
 * Match on {@link SysError.code}, never on the text.
 */
export class SysError extends Error {
  readonly call: string;
  readonly target: string;
  readonly errno: number;
  /** errno's name, as in Node's own errors: `EBUSY`. */
  readonly code: string;
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

/** The same failure as Node's `fs` reports it, told in our terms; anything else passes unchanged. */
export function fromNodeError(error: unknown, call: string, target: string, hint?: string): unknown {
  if (!(error instanceof Error) || !('errno' in error) || typeof error.errno !== 'number') return error;
  return new SysError({ call, target, errno: Math.abs(error.errno), hint, cause: error });
}

/** Whether `error` is a {@link SysError} with this errno name (survives two copies of the package). */
export function isErrno(error: unknown, code: keyof typeof errno): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

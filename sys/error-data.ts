/** Errors that cross threads: structured clone preserves neither class nor fields. */
import { SysError } from './error.js';

/** An error as data. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  readonly sys?: {
    readonly call: string;
    readonly target: string;
    readonly errno: number;
    readonly hint: string | undefined;
  };
  readonly code?: string;
}

export function encodeError(error: unknown): ErrorData {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), stack: undefined };
  const { name, message, stack } = error;
  const code = 'code' in error && typeof error.code === 'string' ? { code: error.code } : {};
  if (!(error instanceof SysError)) return { name, message, stack, ...code };
  const { call, target, errno, hint } = error;
  return { name, message, stack, ...code, sys: { call, target, errno, hint } };
}

/** The error, with its stack in the other thread. @param where comes before its message */
export function decodeError(data: ErrorData, where = ''): Error {
  const error = data.sys === undefined ? new Error() : new SysError(data.sys);
  error.message = where + data.message;
  error.name = data.name;
  if (data.stack !== undefined) error.stack = data.stack;
  return data.code === undefined ? error : Object.assign(error, { code: data.code });
}

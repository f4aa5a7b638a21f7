/** Errors that cross threads: structured clone preserves neither class nor fields. */
import { SysError, type SysErrorInit } from './error.js';

/** What makes a SysError again. */
type SysErrorParts = Pick<SysErrorInit, 'call' | 'target' | 'errno' | 'hint'>;

/** An error as data. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  readonly sys?: SysErrorParts;
  readonly code?: string;
}

/** What makes a SysError again in another thread, for a reply that carries it. @throws `error` if it is another one */
export function sysErrorParts(error: unknown): SysErrorParts {
  if (!(error instanceof SysError)) throw error;
  const { call, target, errno, hint } = error;
  return { call, target, errno, hint };
}

export function encodeError(error: unknown): ErrorData {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), stack: undefined };
  const { name, message, stack } = error;
  const code = 'code' in error && typeof error.code === 'string' ? { code: error.code } : {};
  if (!(error instanceof SysError)) return { name, message, stack, ...code };
  return { name, message, stack, ...code, sys: sysErrorParts(error) };
}

/** The error, with its stack in the other thread. @param where comes before its message */
export function decodeError(data: ErrorData, where = ''): Error {
  const error = data.sys === undefined ? new Error() : new SysError(data.sys);
  error.message = where + data.message;
  error.name = data.name;
  if (data.stack !== undefined) error.stack = data.stack;
  return data.code === undefined ? error : Object.assign(error, { code: data.code });
}

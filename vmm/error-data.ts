import { SysError } from '../sys/error.js';
import { ConfigError, type ConfigProblem } from './config-error.js';

/** An error as data: structured clone preserves neither class nor fields. */
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
  readonly problems?: readonly ConfigProblem[];
  readonly code?: string;
}

export function encodeError(error: unknown): ErrorData {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), stack: undefined };
  const { name, message, stack } = error;
  const code = 'code' in error && typeof error.code === 'string' ? { code: error.code } : {};
  if (error instanceof SysError) {
    const { call, target, errno, hint } = error;
    return { name, message, stack, ...code, sys: { call, target, errno, hint } };
  }
  if (error instanceof ConfigError) return { name, message, stack, ...code, problems: error.problems };
  return { name, message, stack, ...code };
}

/** The result of a call, or its exception as data that crosses threads. */
export function orError<T>(call: () => T): T | ErrorData {
  try {
    return call();
  } catch (error) {
    return encodeError(error);
  }
}

export function decodeError(data: ErrorData): Error {
  if (data.sys !== undefined) return new SysError(data.sys);
  if (data.problems !== undefined) return new ConfigError(data.problems);
  const error = new Error(data.message);
  error.name = data.name;
  if (data.stack !== undefined) error.stack = data.stack;
  return data.code === undefined ? error : Object.assign(error, { code: data.code });
}

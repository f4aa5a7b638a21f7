import * as sys from '../sys/error-data.js';
import { ConfigError, type ConfigProblem } from './config-error.js';

/** An error as data, a {@link ConfigError} included. */
export interface ErrorData extends sys.ErrorData {
  readonly problems?: readonly ConfigProblem[];
}

export function encodeError(error: unknown): ErrorData {
  const data = sys.encodeError(error);
  return error instanceof ConfigError ? { ...data, problems: error.problems } : data;
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
  return data.problems === undefined ? sys.decodeError(data) : new ConfigError(data.problems);
}

/** Errors as the API returns them. */
import { SysError } from '../../sys/error.js';
import { ConfigError } from '../config-error.js';

/** A request that is refused before the machine is asked. */
export class RequestError extends Error {
  /** The HTTP status. */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = 'RequestError';
    this.status = status;
  }
}

const STATUS_OF: Readonly<Record<string, number>> = {
  ECONFIG: 400,
  EINVAL: 400,
  EPERM: 403,
  EACCES: 403,
  ENODEV: 404,
  ENOENT: 404,
  EBUSY: 409,
  EEXIST: 409,
  ECANCELED: 409,
  ENODATA: 409,
  ENOTSUP: 409,
  EUSERS: 409,
  ENOSPC: 409,
  ETIME: 409,
  ESRCH: 410,
  ECONNREFUSED: 502,
  EPROTO: 502,
  ECONNRESET: 503,
  EAGAIN: 503,
  ETIMEDOUT: 504,
};

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

export function statusOf(error: unknown): number {
  if (error instanceof RequestError) return error.status;
  return STATUS_OF[codeOf(error) ?? ''] ?? 500;
}

/** The body of an answer that reports an error. */
export function errorBody(error: unknown): object {
  const message = error instanceof Error ? error.message : String(error);
  const code = codeOf(error);
  const sys = error instanceof SysError ? { call: error.call, target: error.target, hint: error.hint } : {};
  const problems = error instanceof ConfigError ? { problems: error.problems } : {};
  return { error: { message, ...(code === undefined ? {} : { code }), ...sys, ...problems } };
}

import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';

/** The error of a VFIO call, with the errno that Linux would return. */
export function vfioError(call: string, target: string, code: keyof typeof errno, hint?: string): SysError {
  return new SysError({ call, target, errno: errno[code], hint });
}

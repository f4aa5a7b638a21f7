import { errno } from './errno.js';
import { SysError } from './error.js';
import { checked, type Fd } from './fd.js';
import * as libc from './libc.js';
import type { Fields, Layout } from './struct.js';

// asm-generic/ioctl.h: 8 bits of number, 8 of type, 14 of size, 2 of direction.
const IOC_WRITE = 1;
const IOC_READ = 2;

/** An ioctl's number and name; errors include the name. */
export interface Request {
  /** The macro: `KVM_CREATE_VM`. */
  readonly name: string;
  /** The request's number, as ioctl(2) takes it. */
  readonly number: number;
  /** First kernel version whose header has it; undefined if the headers of all supported distributions do. */
  readonly since: string | undefined;
  /** How to fix a failure, by errno name. */
  readonly hints: Readonly<Record<string, string>>;
  /**
   * Whether a positive result means something: a descriptor, a number, how much was done. The caller decodes it. Of any
   * other request it is no success: EPROTO.
   */
  readonly hasResult: boolean;
}

export interface RequestOptions {
  readonly since?: string;
  readonly hints?: Readonly<Record<string, string>>;
  /** See {@link Request.hasResult}; false if absent. */
  readonly hasResult?: boolean;
}

function ioc(
  direction: number,
  name: string,
  type: number,
  nr: number,
  size: number,
  options: RequestOptions,
): Request {
  const number = direction * 2 ** 30 + size * 2 ** 16 + type * 2 ** 8 + nr;
  const { since, hints = {}, hasResult = false } = options;
  return { name, number, since, hints, hasResult };
}

type Sized = Layout<Fields> | number;
const sizeOf = (type: Sized): number => (typeof type === 'number' ? type : type.size);

/** `_IO`: no argument size in the number; the call may take an argument all the same. */
export const io = (name: string, type: number, nr: number, options: RequestOptions = {}): Request =>
  ioc(0, name, type, nr, 0, options);
/** `_IOR`: the kernel writes a structure. */
export const ior = (
  name: string,
  type: number,
  nr: number,
  argument: Sized,
  options: RequestOptions = {},
): Request => ioc(IOC_READ, name, type, nr, sizeOf(argument), options);
/** `_IOW`: the kernel reads a structure. */
export const iow = (
  name: string,
  type: number,
  nr: number,
  argument: Sized,
  options: RequestOptions = {},
): Request => ioc(IOC_WRITE, name, type, nr, sizeOf(argument), options);
/** `_IOWR`: both. */
export const iowr = (
  name: string,
  type: number,
  nr: number,
  argument: Sized,
  options: RequestOptions = {},
): Request => ioc(IOC_READ + IOC_WRITE, name, type, nr, sizeOf(argument), options);

/** Calls an ioctl and returns its result, or the negative errno. */
export function tryIoctl(fd: Fd, request: Request, argument: number | Uint8Array = 0): number {
  return typeof argument === 'number'
    ? libc.ioctlValue(fd.number, request.number, argument)
    : libc.ioctlPtr(fd.number, request.number, argument);
}

/**
 * Calls an ioctl and returns its result.
 * @param argument a number, a host address, or a structure that is read and written in place
 * @param target names the object in errors, if the fd's own name does not suffice
 * @throws SysError naming the ioctl, with the request's hint for the errno; EPROTO for a positive result of a request
 *   that has none
 */
export function ioctl(
  fd: Fd,
  request: Request,
  argument: number | Uint8Array = 0,
  target = fd.target,
): number {
  return checkedResult(tryIoctl(fd, request, argument), request, target);
}

/** Returns the result of an ioctl. @throws SysError as {@link ioctl} */
export function checkedResult(value: number, request: Request, target: string): number {
  if (value === 0 || (value > 0 && request.hasResult)) return value;
  if (value < 0) return checked(value, request.name, target, hintFor(request, value));
  // Not every kernel keeps to "0 or an errno": VFIO_DEVICE_SET_IRQS once looked like one that does.
  const hint = `the kernel returned ${value}, and only 0 is a success`;
  throw new SysError({ call: request.name, target, errno: errno.EPROTO, hint });
}

function hintFor(request: Request, value: number): string | undefined {
  const name = Object.keys(request.hints).find((code) => errno[code as keyof typeof errno] === -value);
  return name === undefined ? undefined : request.hints[name];
}

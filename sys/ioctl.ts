import { errno } from './errno.js';
import { checked, type Fd } from './fd.js';
import * as libc from './libc.js';
import type { Fields, Layout } from './struct.js';

// asm-generic/ioctl.h: 8 bits of number, 8 of type, 14 of size, 2 of direction.
const IOC_WRITE = 1;
const IOC_READ = 2;

/** An ioctl's number with its name, so that an error can say which one failed. */
export interface Request {
  /** The macro: `KVM_CREATE_VM`. */
  readonly name: string;
  readonly number: number;
  /** First kernel version whose header has it; undefined if any header of a supported distribution does. */
  readonly since: string | undefined;
  /** What to do when it fails, by errno name. */
  readonly hints: Readonly<Record<string, string>>;
}

export interface RequestOptions {
  readonly since?: string;
  readonly hints?: Readonly<Record<string, string>>;
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
  return { name, number, since: options.since, hints: options.hints ?? {} };
}

type Sized = Layout<Fields> | number;
const sizeOf = (type: Sized): number => (typeof type === 'number' ? type : type.size);

/** `_IO`: no argument in the number (which says nothing about what the call takes). */
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

/** Calls an ioctl on an fd and returns its result, or the negative errno. */
export function tryIoctl(fd: Fd, request: Request, argument: number | Uint8Array = 0): number {
  return typeof argument === 'number'
    ? libc.ioctlValue(fd.number, request.number, argument)
    : libc.ioctlPtr(fd.number, request.number, argument);
}

/**
 * Calls an ioctl on an fd.
 * @param argument nothing, a number (or a host address), or a structure that is read and written in place
 * @param target what the call is about, if the fd's own name does not say it
 * @throws SysError naming the ioctl, with the request's hint for that errno
 */
export function ioctl(
  fd: Fd,
  request: Request,
  argument: number | Uint8Array = 0,
  target = fd.target,
): number {
  const value = tryIoctl(fd, request, argument);
  return value < 0 ? checked(value, request.name, target, hintFor(request, value)) : value;
}

function hintFor(request: Request, value: number): string | undefined {
  const name = Object.keys(request.hints).find((code) => errno[code as keyof typeof errno] === -value);
  return name === undefined ? undefined : request.hints[name];
}

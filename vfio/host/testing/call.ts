import type { errno } from '../../../sys/errno.js';
import type { Mapping } from '../../../sys/mapping.js';

export type ErrnoName = keyof typeof errno;

/** What is behind a descriptor. */
export interface FakeObject {
  /** Result, or throws {@link Refusal}. `argument` is the number or the structure, as the caller gave it. */
  ioctl(number: number, argument: number | Uint8Array): number;
  pread?(offset: number, data: Uint8Array): number;
  pwrite?(offset: number, data: Uint8Array): number;
  mmap?(offset: number, bytes: number): Mapping;
  /** The last descriptor was closed. */
  release?(): void;
}

/** A call that fails with an errno. */
export class Refusal extends Error {
  readonly code: ErrnoName;

  constructor(code: ErrnoName) {
    super(code);
    this.code = code;
  }
}

export function refuse(code: ErrnoName): never {
  throw new Refusal(code);
}

/** The structure an ioctl was given. @throws Refusal EFAULT for a number */
export function structure(argument: number | Uint8Array): Uint8Array {
  return typeof argument === 'number' ? refuse('EFAULT') : argument;
}

/** As the kernel reads `argsz`: bytes past it are not the caller's. @throws Refusal EINVAL below `least` */
export function argszOf(bytes: Uint8Array, least: number): number {
  const argsz = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  return argsz < least || argsz > bytes.length ? refuse('EINVAL') : argsz;
}

import type { PreparedIoctl } from './libc.js';

/** A way to make ioctls, for the thread that has it: hand others the name, not the object. */
export interface IoctlDoor {
  /** For reports: `node:ffi`. */
  readonly name: string;
  /**
   * Prepares one ioctl on one descriptor, for frequent calls.
   * @param value its argument: a number, or an address that stays mapped
   * @returns makes the call, and returns its result or the negative errno. It must not throw, and must not restart a call
   *   that a signal ended (-EINTR)
   */
  prepare(fd: number, request: number, value: number): PreparedIoctl;
}

/** The doors of this package, fastest first. */
export const DOOR_NAMES = ['node:ffi', 'koffi', 'ffi-rs'] as const;
/** Name of a door, as reports and `--ffi` have it. */
export type DoorName = (typeof DOOR_NAMES)[number];
/** A door by name; `auto` is the first one that is there and works. */
export type DoorChoice = 'auto' | DoorName;
/** A door of this package. */
export interface NamedDoor extends IoctlDoor {
  /** One of {@link DOOR_NAMES}. */
  readonly name: DoorName;
}

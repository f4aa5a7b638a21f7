import { constants } from 'node:os';

/** Linux errno values by name, from asm-generic/errno.h (`errno.EBUSY` is 16). */
export const errno: Readonly<
  typeof constants.errno & { EBADFD: number; EUSERS: number; ENOTRECOVERABLE: number }
> = {
  ...constants.errno,
  // Node has the errno values of POSIX, and these are Linux's own.
  EBADFD: 77,
  EUSERS: 87,
  ENOTRECOVERABLE: 131,
};

const nameOf = new Map<number, string>();
for (const [name, value] of Object.entries(errno)) {
  // EWOULDBLOCK and EOPNOTSUPP share values with EAGAIN and ENOTSUP; the name listed first is the usual one.
  if (!nameOf.has(value)) nameOf.set(value, name);
}

/** Name of an errno value; `E133` style if it has no name here. */
export function errnoName(value: number): string {
  return nameOf.get(value) ?? `E${value}`;
}

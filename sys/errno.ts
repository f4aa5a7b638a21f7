import { constants } from 'node:os';

const nameOf = new Map<number, string>();
for (const [name, value] of Object.entries(constants.errno)) {
  // EWOULDBLOCK and EOPNOTSUPP share values with EAGAIN and ENOTSUP; the name listed first is the usual one.
  if (!nameOf.has(value)) nameOf.set(value, name);
}

/** Linux errno values by name, from asm-generic/errno.h (`errno.EBUSY` is 16). */
export const errno: Readonly<typeof constants.errno> = constants.errno;

/** Name of an errno value; `E133` style if Node has no name for it. */
export function errnoName(value: number): string {
  return nameOf.get(value) ?? `E${value}`;
}

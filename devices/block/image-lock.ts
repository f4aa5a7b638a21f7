/**
 * Locks of disk images, as QEMU's and qemu-img's: two that exclude each other can then not have one image. Each use has
 * a byte, and each refusal to share a use has another one; whoever takes one side looks whether the other is taken.
 * @see qemu, block/file-posix.c (RAW_LOCK_PERM_BASE)
 */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import * as libc from '../../sys/libc.js';

const USED_BASE = 100;
const UNSHARED_BASE = 200;
/** Numbers of the uses. */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

// linux/fcntl.h; fcntl(2) on open file descriptions
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const FLOCK_BYTES = 32;

/** Commands of fcntl(2) that a disk needs. */
export const LOCK_COMMANDS: readonly number[] = [F_OFD_GETLK, F_OFD_SETLK];

function flock(type: number, at: number): Uint8Array {
  const bytes = new Uint8Array(FLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  view.setInt16(0, type, true);
  view.setBigInt64(8, BigInt(at), true);
  view.setBigInt64(16, 1n, true);
  return bytes;
}

/**
 * Locks an open image until its descriptor is closed. A file system without such locks has none, as in QEMU.
 * @throws SysError EBUSY if somebody uses it in a way that this use excludes
 */
export function lockImage(fd: number, path: string, isReadOnly: boolean): void {
  const used = isReadOnly ? [CONSISTENT_READ] : [CONSISTENT_READ, WRITE, RESIZE];
  const unshared = [WRITE, RESIZE];
  const own = [...used.map((use) => USED_BASE + use), ...unshared.map((use) => UNSHARED_BASE + use)];
  for (const at of own) {
    const result = libc.withAddress(flock(F_RDLCK, at), (address) => libc.fcntl(fd, F_OFD_SETLK, address));
    if (result === -errno.EINVAL || result === -errno.ENOLCK || result === -errno.EOPNOTSUPP) return;
    if (result < 0) throw refused(path, isReadOnly);
  }
  const others = [...used.map((use) => UNSHARED_BASE + use), ...unshared.map((use) => USED_BASE + use)];
  for (const at of others) {
    const lock = flock(F_WRLCK, at);
    const result = libc.withAddress(lock, (address) => libc.fcntl(fd, F_OFD_GETLK, address));
    if (result >= 0 && new DataView(lock.buffer).getInt16(0, true) !== F_UNLCK)
      throw refused(path, isReadOnly);
  }
}

function refused(path: string, isReadOnly: boolean): SysError {
  const hint = isReadOnly
    ? 'another machine, or another disk of this one, writes this image: end it first'
    : 'another machine, or another disk of this one, uses this image: two at once would destroy it; ' +
      'several can have it if each has an overlay= of its own';
  return new SysError({ call: 'F_OFD_SETLK', target: path, errno: errno.EBUSY, hint });
}

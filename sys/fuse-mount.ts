/** A tree of attributes, mounted: a file system in user space. @see fuse-tree.ts, which answers */
import { constants, readdirSync, readFileSync, realpathSync, writeSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { errno } from './errno.js';
import { fromNodeError, isErrno, SysError } from './error.js';
import { checked, Fd } from './fd.js';
import { FUSE_MIN_READ_BUFFER } from './fuse-protocol.js';
import type { FuseTree } from './fuse-tree.js';
import * as libc from './libc.js';

const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOEXEC = 8;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

const TYPE = 'fuse.tsvisor';
/** What mountinfo names as mounted: who serves it, so that nobody takes another one's for its own. */
const SOURCE = `tsvisor:${process.pid}`;
/** struct iovec */
const IOVEC_BYTES = 16;
/** Of requests, after which no further one begins, so that processes that ask without end do not keep the thread from other work. */
const TURN_MS = 20;

const OPEN_HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'there are no file systems in user space here: modprobe fuse, and give a container the device',
  ENODEV: 'the kernel has no file systems in user space: modprobe fuse',
  EACCES: 'this user may not open it',
};
const MOUNT_HINTS: Readonly<Record<number, string>> = {
  [errno.EPERM]:
    'mounting takes CAP_SYS_ADMIN: root has it, and so has who runs this in `unshare --user --map-root-user --mount`',
  [errno.ENODEV]: 'the kernel has no file systems in user space: modprobe fuse',
};

/**
 * A mounted tree, which only processes with this one's user and group IDs can enter. Used by the thread that made it, and by none of this process for
 * reading or writing below its folder: that thread would wait for itself.
 */
export class FuseMount implements Disposable {
  /** Where it is, absolute, as mountinfo has it. */
  readonly folder: string;
  readonly #fd: Fd;
  readonly #tree: FuseTree;
  readonly #buffer = new libc.PinnedBytes(FUSE_MIN_READ_BUFFER);
  readonly #iov = new libc.PinnedBytes(IOVEC_BYTES);
  #isMounted = true;

  private constructor(folder: string, fd: Fd, tree: FuseTree) {
    this.folder = folder;
    this.#fd = fd;
    this.#tree = tree;
    new BigUint64Array(this.#iov.bytes.buffer).set([
      BigInt(this.#buffer.address),
      BigInt(FUSE_MIN_READ_BUFFER),
    ]);
  }

  /**
   * Mounts a tree on an empty folder. What a process that was killed has left there is unmounted first.
   * @throws SysError ENOENT or ENOTDIR for a folder that is none; ENOTEMPTY; ENOTCONN if another program's dead file system is
   *   there; the errno of opening /dev/fuse; that of mount(2), EPERM without the right to
   */
  static mount(folder: string, tree: FuseTree): FuseMount {
    const path = mountPath(folder);
    requireEmpty(path);
    const flags = constants.O_RDWR | constants.O_NONBLOCK;
    let fd: Fd;
    try {
      fd = Fd.open('/dev/fuse', flags);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      const { call, target, cause } = error;
      throw new SysError({ call, target, errno: error.errno, hint: OPEN_HINTS[error.code], cause });
    }
    try {
      const [user, group] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
      const data = `fd=${fd.number},rootmode=40000,user_id=${user},group_id=${group},default_permissions`;
      const result = libc.mount(SOURCE, path, TYPE, MS_NOSUID | MS_NODEV | MS_NOEXEC, data);
      checked(result, 'mount', `${TYPE} at ${path}`, MOUNT_HINTS[-result]);
      return new FuseMount(path, fd, tree);
    } catch (error) {
      fd[Symbol.dispose]();
      throw error;
    }
  }

  /** Descriptor that is readable when there is something to answer. */
  get fd(): number {
    return this.#fd.number;
  }

  /** False once somebody else has unmounted it: nobody can ask anything any more. */
  get isMounted(): boolean {
    return this.#isMounted;
  }

  /** Answers what processes have asked for, for 20 ms. Does not wait. */
  step(): void {
    for (const end = performance.now() + TURN_MS; this.#isMounted && performance.now() < end; ) {
      const request = this.#next();
      if (request === undefined) return;
      const answer = this.#tree.answer(request);
      if (answer !== undefined) this.#send(answer);
    }
  }

  #next(): Uint8Array | undefined {
    for (;;) {
      const count = libc.preadv2(this.#fd.number, this.#iov.address, 1, -1, 0);
      if (count >= 0) return this.#buffer.bytes.subarray(0, count);
      if (count === -errno.EAGAIN) return undefined;
      if (count === -errno.ENODEV) {
        this.#isMounted = false;
        // umount -f aborts what is in use without unmounting it: it would be there, dead.
        unmountOwn(this.folder);
        return undefined;
      }
      // A request was taken back before it was read, or a signal came.
      if (count !== -errno.ENOENT && count !== -errno.EINTR) checked(count, 'read', '/dev/fuse');
    }
  }

  #send(answer: Uint8Array): void {
    try {
      writeSync(this.#fd.number, answer);
    } catch (error) {
      // The process was killed while it waited, or the folder was unmounted: nobody wants the answer.
      if (!isErrno(error, 'ENOENT') && !isErrno(error, 'ENODEV'))
        throw fromNodeError(error, 'write', '/dev/fuse');
    }
  }

  /** Unmounts. Who still has a file of it open, or works in one of its folders, gets ENOTCONN. */
  [Symbol.dispose](): void {
    if (!this.#fd.isOpen) return;
    if (this.#isMounted) unmountOwn(this.folder);
    this.#isMounted = false;
    this.#fd[Symbol.dispose]();
    this.#iov[Symbol.dispose]();
    this.#buffer[Symbol.dispose]();
  }
}

/**
 * A path as mountinfo names it: absolute, and without links. Of a path where nothing is yet, that holds up to its last part. Asks no
 * file system that is mounted there, which may be dead.
 * @throws SysError ENOENT if the folder that it is in does not exist; ELOOP, ENOTDIR, EACCES on the way to it
 */
export function mountPath(given: string): string {
  const path = resolve(given);
  const parent = dirname(path);
  try {
    // Not Node's own, which looks at each part.
    return realpathSync.native(path);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw fromNodeError(error, 'find', given);
  }
  try {
    return join(realpathSync.native(parent), basename(path));
  } catch (error) {
    throw fromNodeError(error, 'find', given, `there is no folder ${parent}`);
  }
}

/**
 * Unmounts what this process has mounted, as the thread that did cannot any more. Asks the file system nothing.
 * @param path as {@link mountPath} returns it; nothing happens if another one's is mounted there now, beside it or over it
 */
export const unmountOwn = (path: string): void => void unmountTop(path, (source) => source === SOURCE);

/** @returns false if what is mounted at the path, and not covered, is not of this class or not one to unmount */
function unmountTop(path: string, isOneOf: (source: string) => boolean): boolean {
  const top = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => /^\d+ \d+ \S+ \S+ (\S+) .*? - (\S+) (\S+)/.exec(line))
    .findLast((match) => unescaped(match?.[1] ?? '') === path);
  const [, , type, source = ''] = top ?? [];
  return type === TYPE && isOneOf(source) && libc.umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) === 0;
}

/** Blanks and the like are octal numbers of bytes in mountinfo. */
const unescaped = (point: string): string =>
  point.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

function requireEmpty(path: string): void {
  const entries = entriesOf(path) ?? (unmountTop(path, () => true) ? entriesOf(path) : undefined);
  if (entries === undefined) {
    const hint = `the file system that is mounted there has lost its process: umount ${path}`;
    throw new SysError({ call: 'mount', target: path, errno: errno.ENOTCONN, hint });
  }
  if (entries.length === 0) return;
  const hint = `it is not empty, and what is in it would be hidden: ${entries.slice(0, 3).join(', ')}`;
  throw new SysError({ call: 'mount', target: path, errno: errno.ENOTEMPTY, hint });
}

/** Undefined if a dead file system is there. */
function entriesOf(path: string): string[] | undefined {
  try {
    return readdirSync(path);
  } catch (error) {
    if (isErrno(error, 'ENOTCONN')) return undefined;
    const hint = isErrno(error, 'ENOENT') ? `there is no such folder: mkdir ${path}` : undefined;
    throw fromNodeError(error, 'mount', path, hint);
  }
}

import { closeSync, fchmodSync, openSync } from 'node:fs';
import { errno } from './errno.js';
import { fromNodeError, SysError } from './error.js';
import { isForeign, setForeign } from './foreign-fds.js';
import * as libc from './libc.js';

const F_DUPFD_CLOEXEC = 1030;
const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const MFD_CLOEXEC = 1;

/** Returns a libc result, or throws the error that a negative one encodes. */
export function checked(value: number, call: string, target: string, hint?: string): number {
  if (value < 0) throw new SysError({ call, target, errno: -value, hint });
  return value;
}

/** An open file descriptor with one owner. Rejects use after close; closing twice does nothing. */
export class Fd implements Disposable {
  #number: number;
  /** Names it in errors: a path, `eventfd`, `memfd ram`. */
  readonly target: string;

  /** Whether this is a memfd: safe to send to another process, since it grants access to nothing but memory. */
  readonly isMemfd: boolean;

  private constructor(number: number, target: string, isMemfd = false) {
    this.#number = number;
    this.target = target;
    this.isMemfd = isMemfd;
  }

  /**
   * Opens a path, close-on-exec like all of Node's descriptors.
   * @param flags as for `fs.openSync`: a string or O_ bits
   * @param mode of a file that O_CREAT makes, less the umask
   * @throws SysError with the errno of open(2)
   */
  static open(path: string, flags: string | number = 'r+', hint?: string, mode?: number): Fd {
    try {
      return new Fd(openSync(path, flags, mode), path);
    } catch (error) {
      throw fromNodeError(error, 'open', path, hint);
    }
  }

  /** Takes ownership of a descriptor from elsewhere: an ioctl's result, a message, a parent process. */
  static adopt(number: number, target: string): Fd {
    return new Fd(number, target);
  }

  /** As {@link adopt}, for one that another process has sent. @see isForeign */
  static adoptForeign(number: number, target: string): Fd {
    setForeign(number, true);
    return new Fd(number, target);
  }

  /** Creates a non-blocking eventfd with count 0. @throws SysError EMFILE, ENFILE, ENOMEM */
  static eventfd(target = 'eventfd'): Fd {
    return new Fd(checked(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd', target), target);
  }

  /** Creates anonymous shareable memory of size 0; ftruncate sets the size. @throws SysError EMFILE, ENFILE, ENOMEM */
  static memfd(name: string, flags = 0, hint?: string): Fd {
    const target = `memfd ${name}`;
    const fd = new Fd(
      checked(libc.memfdCreate(name, flags | MFD_CLOEXEC), 'memfd_create', target, hint),
      target,
      true,
    );
    fchmodSync(fd.number, 0o600); // it starts as 0777: whoever gets it for reading could open it again for writing
    return fd;
  }

  /** The descriptor's number. @throws SysError EBADF after close */
  get number(): number {
    if (this.#number < 0)
      throw new SysError({
        call: 'fd',
        target: this.target,
        errno: errno.EBADF,
        hint: 'it was disposed before its last use: dispose in reverse order of creation',
      });
    return this.#number;
  }

  /** False after dispose. */
  get isOpen(): boolean {
    return this.#number >= 0;
  }

  /** Duplicates the descriptor; the new one has its own owner. @throws SysError EMFILE */
  duplicate(): Fd {
    return duplicateFd(this.number, this.target);
  }

  /**
   * Opens a memfd again, for reading only. A process of another user cannot open what it gets once more for writing, as
   * {@link Fd.memfd} sets the mode; one of this user can, and could debug this process just as well.
   * @throws SysError EMFILE, ENOENT without /proc
   */
  static readOnly(memfd: number, target: string): Fd {
    const path = `/proc/self/fd/${memfd}`;
    try {
      return new Fd(openSync(path, 'r'), target, true);
    } catch (error) {
      throw fromNodeError(error, 'open', path);
    }
  }

  /** Closes the descriptor; a second dispose does nothing. */
  [Symbol.dispose](): void {
    if (this.#number < 0) return;
    const number = this.#number;
    this.#number = -1;
    setForeign(number, false); // before another thread's next descriptor gets the number
    closeSync(number);
  }
}

/** Duplicates a descriptor that someone else owns. @throws SysError EBADF, EMFILE */
export function duplicateFd(number: number, target: string): Fd {
  const copy = checked(libc.fcntl(number, F_DUPFD_CLOEXEC, 0), 'fcntl F_DUPFD_CLOEXEC', target);
  return isForeign(number) ? Fd.adoptForeign(copy, target) : Fd.adopt(copy, target);
}

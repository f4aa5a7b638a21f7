import { fstatSync, readSync, writeSync } from 'node:fs';
import { fromNodeError } from '../../sys/error.js';
import { checked, Fd } from '../../sys/fd.js';
import { ioctl, type Request } from '../../sys/ioctl.js';
import type { IoctlCall } from '../../sys/ioctl-task.js';
import * as libc from '../../sys/libc.js';
import { Mapping } from '../../sys/mapping.js';

/** An open file of the kernel. Every call throws SysError with the kernel's errno, and EBADF once it is closed. */
export interface SystemFile extends Disposable {
  /** Name for messages: a path, or a device's name. */
  readonly target: string;
  /** @throws SysError EBADF after close */
  readonly fd: number;
  /**
   * @param argument a number, or a structure that is read and written in place
   * @param target object of the call, for errors; the file's `target` if absent
   */
  ioctl(request: Request, argument?: number | Uint8Array, target?: string): number;
  /** An ioctl with a structure, for another thread to make; absent where none can. @throws SysError EBADF after close */
  call?(request: Request, argument: Uint8Array): IoctlCall;
  /** Returns the bytes read. */
  pread(offset: number, data: Uint8Array): number;
  /** Returns the bytes written. */
  pwrite(offset: number, data: Uint8Array): number;
  mmap(offset: number, bytes: number): Mapping;
}

/** A character device's number, as stat(2) reports it. */
export interface DeviceNumber {
  readonly major: number;
  readonly minor: number;
}

/** The system calls of this folder, sysfs excepted. The scripted kernel of the tests implements it, too. */
export interface VfioSystem {
  /**
   * Opens for reading and writing.
   * @param target the file's `target`; its path if absent
   * @throws SysError as open(2), naming the path
   */
  open(path: string, target?: string): SystemFile;
  /** Takes ownership of an inherited descriptor, and makes it close-on-exec. @throws SysError EBADF */
  adopt(fd: number, target: string): SystemFile;
  /** @throws SysError EBADF; ENODEV if it is not a character device */
  deviceNumber(fd: number): DeviceNumber;
}

/** glibc's gnu_dev_major and gnu_dev_minor, for the 32-bit numbers that Linux uses. */
export const deviceNumberOf = (rdev: number): DeviceNumber => ({
  major: (rdev >>> 8) & 0xfff,
  minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00),
});

const F_SETFD = 2;
const FD_CLOEXEC = 1;

class LinuxFile implements SystemFile {
  readonly target: string;
  readonly #fd: Fd;

  constructor(fd: Fd, target = fd.target) {
    this.#fd = fd;
    this.target = target;
  }

  get fd(): number {
    return this.#fd.number;
  }

  ioctl(request: Request, argument: number | Uint8Array = 0, target = this.target): number {
    return ioctl(this.#fd, request, argument, target);
  }

  call(request: Request, argument: Uint8Array): IoctlCall {
    return { fd: this.fd, request: request.number, argument };
  }

  // Node's read and write take a seventh of the time of a call through ffi-rs.
  pread(offset: number, data: Uint8Array): number {
    const fd = this.#fd.number;
    try {
      return readSync(fd, data, 0, data.length, offset);
    } catch (error) {
      throw fromNodeError(error, 'pread', `${this.target} at 0x${offset.toString(16)}`);
    }
  }

  pwrite(offset: number, data: Uint8Array): number {
    const fd = this.#fd.number;
    try {
      return writeSync(fd, data, 0, data.length, offset);
    } catch (error) {
      throw fromNodeError(error, 'pwrite', `${this.target} at 0x${offset.toString(16)}`);
    }
  }

  mmap(offset: number, bytes: number): Mapping {
    return Mapping.file(this.#fd, bytes, { offset, target: `${this.target} at 0x${offset.toString(16)}` });
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

/** The kernel that this process runs on. */
export const linux: VfioSystem = {
  open: (path, target) => new LinuxFile(Fd.open(path), target),
  adopt(fd, target) {
    checked(libc.fcntl(fd, F_SETFD, FD_CLOEXEC), 'fcntl F_SETFD', target);
    return new LinuxFile(Fd.adopt(fd, target));
  },
  deviceNumber(fd) {
    try {
      return deviceNumberOf(fstatSync(fd).rdev);
    } catch (error) {
      const hint = `this process has no descriptor ${fd}: its parent passes it on, as a shell does with ${fd}< /dev/vfio/26`;
      throw fromNodeError(error, 'fstat', `fd ${fd}`, hint);
    }
  },
};

import { readSync, writeSync } from 'node:fs';
import { errno } from '../sys/errno.js';
import { fromNodeError, isErrno, SysError } from '../sys/error.js';
import type { Fd } from '../sys/fd.js';
import type { MigrationData, PrecopyInfo } from './feature.js';

/** Asks a descriptor for {@link MigrationData.precopyInfo}. */
export type AskPrecopyInfo = (fd: Fd) => PrecopyInfo;

/** Migration data of a descriptor: the kernel's data_fd, or a file of an in-process driver. */
export class FdMigrationData implements MigrationData {
  readonly #fd: Fd;
  readonly #most: number;
  readonly #precopyInfo: AskPrecopyInfo;
  #written = 0;

  /** Takes ownership of `fd`. @param most bytes that may be written */
  constructor(fd: Fd, precopyInfo: AskPrecopyInfo, most = Number.POSITIVE_INFINITY) {
    this.#fd = fd;
    this.#precopyInfo = precopyInfo;
    this.#most = most;
  }

  precopyInfo(): PrecopyInfo {
    return this.#precopyInfo(this.#fd);
  }

  read(data: Uint8Array): number {
    return this.#transfer('read', (fd) => readSync(fd, data));
  }

  write(data: Uint8Array): void {
    this.#written += data.length;
    if (this.#written > this.#most) {
      const hint = `the device's state has at most ${this.#most} bytes`;
      throw new SysError({ call: 'write', target: this.#fd.target, errno: errno.ENOMEM, hint });
    }
    for (let at = 0; at < data.length; ) at += this.#transfer('write', (fd) => writeSync(fd, data, at));
  }

  /** Restarts a call that a signal interrupted: Node restarts neither read nor write. */
  #transfer(call: string, body: (fd: number) => number): number {
    for (;;) {
      const fd = this.#fd.number;
      try {
        return body(fd);
      } catch (error) {
        if (!isErrno(error, 'EINTR')) throw fromNodeError(error, call, this.#fd.target);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

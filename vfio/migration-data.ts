import { readSync, writeSync } from 'node:fs';
import { fromNodeError, isErrno } from '../sys/error.js';
import type { Fd } from '../sys/fd.js';
import type { MigrationData } from './feature.js';

/** Migration data behind a descriptor: the kernel's data_fd, or a file of a driver of this process. */
export class FdMigrationData implements MigrationData {
  readonly #fd: Fd;

  /** Owns `fd` from now on. */
  constructor(fd: Fd) {
    this.#fd = fd;
  }

  read(data: Uint8Array): number {
    return this.#transfer('read', (fd) => readSync(fd, data));
  }

  write(data: Uint8Array): void {
    for (let at = 0; at < data.length; ) at += this.#transfer('write', (fd) => writeSync(fd, data, at));
  }

  /** Again after a signal: Node does not repeat these two by itself. */
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

import { Scope } from '../../sys/scope.js';
import type { SystemFile } from './system.js';

/** Kind of a file that another process opened: a container, an iommufd, a group by number, a device by cdev. */
export type PreopenedKind = 'container' | 'iommufd' | `group ${number}` | `cdev ${string}`;

/**
 * Files that a parent process opened for this one, which may lack the permission. Each serves one open; the provider
 * owns the unused ones.
 */
export class Preopened implements Disposable {
  readonly #files = new Map<PreopenedKind, SystemFile>();
  /** All that were given, by number: those that are still open, by whoever owns them now, cannot be given again. */
  readonly #given = new Map<number, SystemFile>();

  /** Whether a file with this descriptor was given, and is still open. */
  isUsed(fd: number): boolean {
    const file = this.#given.get(fd);
    if (file === undefined) return false;
    try {
      return file.fd === fd;
    } catch {
      this.#given.delete(fd);
      return false;
    }
  }

  /** Takes ownership; closes an earlier file of the same kind. */
  give(kind: PreopenedKind, file: SystemFile): void {
    this.close(kind);
    this.#files.set(kind, file);
    this.#given.set(file.fd, file);
  }

  /** Transfers ownership to the caller; undefined if there is no such file. */
  take(kind: PreopenedKind): SystemFile | undefined {
    const file = this.#files.get(kind);
    this.#files.delete(kind);
    return file;
  }

  /** Closes a file that was not used. */
  close(kind: PreopenedKind): void {
    this.take(kind)?.[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    using scope = new Scope();
    for (const kind of [...this.#files.keys()]) scope.defer(() => this.close(kind));
  }
}

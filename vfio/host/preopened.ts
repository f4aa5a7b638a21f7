import { Scope } from '../../sys/scope.js';
import type { SystemFile } from './system.js';

/** What a file that somebody else opened stands for: a container, an iommufd, a group by number, a device by cdev. */
export type PreopenedKind = 'container' | 'iommufd' | `group ${number}` | `cdev ${string}`;

/**
 * Files that a parent process opened for this one, which may have no right to open them. Each serves one open; the
 * provider owns those that nobody has asked for yet.
 */
export class Preopened implements Disposable {
  readonly #files = new Map<PreopenedKind, SystemFile>();

  /** Takes ownership; one that was given for the same before is closed. */
  give(kind: PreopenedKind, file: SystemFile): void {
    this.close(kind);
    this.#files.set(kind, file);
  }

  /** Hands over ownership; undefined if there is none. */
  take(kind: PreopenedKind): SystemFile | undefined {
    const file = this.#files.get(kind);
    this.#files.delete(kind);
    return file;
  }

  /** Closes one that nobody took. */
  close(kind: PreopenedKind): void {
    this.take(kind)?.[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    using scope = new Scope();
    for (const kind of [...this.#files.keys()]) scope.defer(() => this.close(kind));
  }
}

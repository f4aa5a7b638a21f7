import type { IoDone } from '../../../sys/io-ring.js';
import { BlockingIo, type FileIo } from '../file-io.js';

/** I/O that is done when a test says so, in an order that it chooses. */
export class HeldIo implements FileIo {
  readonly pollFd = undefined;
  readonly #inner = new BlockingIo();
  readonly #held: { readonly kind: string; readonly run: () => void; readonly done: IoDone }[] = [];
  readonly #choose: (count: number) => number;

  /** @param choose which of the held operations is done next; the oldest by default */
  constructor(choose: (count: number) => number = () => 0) {
    this.#choose = choose;
  }

  get busy(): number {
    return this.#held.length;
  }

  /** Kinds of the operations that are held, in the order in which they began. */
  get held(): readonly string[] {
    return this.#held.map(({ kind }) => kind);
  }

  read(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void {
    this.#hold('read', done, () => this.#inner.read(fd, parts, offset, done));
  }

  write(fd: number, parts: readonly Uint8Array[], offset: number, done: IoDone): void {
    this.#hold('write', done, () => this.#inner.write(fd, parts, offset, done));
  }

  sync(fd: number, done: IoDone): void {
    this.#hold('sync', done, () => this.#inner.sync(fd, done));
  }

  allocate(fd: number, mode: number, offset: number, bytes: number, done: IoDone): void {
    this.#hold('allocate', done, () => this.#inner.allocate(fd, mode, offset, bytes, done));
  }

  #hold(kind: string, done: IoDone, run: () => void): void {
    this.#held.push({ kind, run, done });
  }

  reap(): void {}

  /** Does the first held operation of a kind. */
  release(kind: string): void {
    this.releaseAt(this.#first(kind));
  }

  /** Does one of the {@link held} operations. */
  releaseAt(at: number): void {
    this.#held.splice(at, 1)[0]?.run();
  }

  /** Has the first held operation of a kind fail. @param result the negative errno */
  fail(kind: string, result: number): void {
    this.#held.splice(this.#first(kind), 1)[0]?.done(result);
  }

  #first(kind: string): number {
    const at = this.#held.findIndex((each) => each.kind === kind);
    if (at < 0) throw new Error(`no ${kind} is held, but ${this.held.join()}`);
    return at;
  }

  wait(): void {
    if (this.#held.length > 0) this.#held.splice(this.#choose(this.#held.length), 1)[0]?.run();
  }

  [Symbol.dispose](): void {
    while (this.busy > 0) this.wait();
  }
}

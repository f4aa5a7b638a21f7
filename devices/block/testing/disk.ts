import { Scope } from '../../../sys/scope.js';
import type { DiskImage } from '../disk-image.js';
import { BlockingIo, type FileIo, finish } from '../file-io.js';
import type { Done } from '../image.js';
import { openImage } from '../open-image.js';

/** An image in the hands of a test: each operation is waited for, and throws its error. */
export class Disk implements Disposable {
  readonly #scope: Scope;
  readonly #io: FileIo;
  readonly #image: ReturnType<typeof openImage>;

  constructor(disk: DiskImage, io: FileIo = new BlockingIo()) {
    using scope = new Scope();
    this.#io = scope.own(io);
    this.#image = scope.own(openImage(disk, io));
    this.#scope = scope.move();
  }

  read(parts: readonly Uint8Array[], offset: number): void {
    this.#finish((done) => this.#image.read(parts, offset, done));
  }

  write(parts: readonly Uint8Array[], offset: number): void {
    this.#finish((done) => this.#image.write(parts, offset, done));
  }

  flush(): void {
    this.#finish((done) => this.#image.flush(done));
  }

  discard(offset: number, bytes: number): void {
    this.#finish((done) => this.#image.discard(offset, bytes, done));
  }

  writeZeroes(offset: number, bytes: number, mayFree: boolean): void {
    this.#finish((done) => this.#image.writeZeroes(offset, bytes, mayFree, done));
  }

  #finish(begin: (done: Done) => void): void {
    finish(this.#io, begin);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

const LEAST_BYTES = 64;

/** Bytes that come in pieces of any length, in one block of at most twice as many, however small the pieces are. */
export class GrowingBytes {
  #block: Uint8Array = new Uint8Array(0);
  #from = 0;
  #end = 0;

  /** Number of bytes. */
  get length(): number {
    return this.#end - this.#from;
  }

  /** The bytes: a view, until the next call of {@link append}. */
  get bytes(): Uint8Array {
    return this.#block.subarray(this.#from, this.#end);
  }

  /** Appends a copy. */
  append(data: Uint8Array): void {
    if (this.#end + data.length > this.#block.length) this.#move(data.length);
    this.#block.set(data, this.#end);
    this.#end += data.length;
  }

  /**
   * Makes room for so many bytes in all, which takes no memory until they come: they are not moved then. A host that has no room for
   * so many, as by `ulimit -v`, may have some for those that come.
   */
  reserve(bytes: number): void {
    if (this.#from + bytes <= this.#block.length) return;
    try {
      this.#move(bytes - this.length);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }

  /** Drops bytes from the beginning. @param count at most {@link length} */
  drop(count: number): void {
    this.#from += count;
    if (this.length === 0) this.clear();
  }

  /** Drops all bytes, and their memory. */
  clear(): void {
    this.#block = new Uint8Array(0);
    this.#from = 0;
    this.#end = 0;
  }

  #move(more: number): void {
    const { bytes } = this;
    const block = new Uint8Array(Math.max(LEAST_BYTES, bytes.length + Math.max(bytes.length, more)));
    block.set(bytes);
    this.#block = block;
    this.#from = 0;
    this.#end = bytes.length;
  }
}

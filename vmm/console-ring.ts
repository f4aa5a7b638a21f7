/** Bytes of a console that are kept: some hundred lines. */
export const RING_BYTES = 64 << 10;

/** A piece of a console's output. */
export interface ConsoleOutput {
  /** Number of the first byte since the start of the machine, 0 for the very first. */
  readonly from: number;
  /** A copy. */
  readonly bytes: Uint8Array;
}

/** The last output of a console. Older bytes are overwritten. */
export class ConsoleRing {
  readonly #ring = new Uint8Array(RING_BYTES);
  readonly #listeners = new Set<() => void>();
  #end = 0;

  /** Number of bytes so far. */
  get end(): number {
    return this.#end;
  }

  /** Appends output, and reports it to listeners. */
  write(bytes: Uint8Array): void {
    const kept = bytes.subarray(Math.max(0, bytes.length - RING_BYTES));
    const at = (this.#end + bytes.length - kept.length) % RING_BYTES;
    const first = kept.subarray(0, RING_BYTES - at);
    this.#ring.set(first, at);
    this.#ring.set(kept.subarray(first.length), 0);
    this.#end += bytes.length;
    for (const listener of this.#listeners) listener();
  }

  /** A copy of the bytes from number `from` on that are still there. */
  since(from = 0): ConsoleOutput {
    const start = Math.min(Math.max(from, this.#end - RING_BYTES, 0), this.#end);
    const bytes = new Uint8Array(this.#end - start);
    const at = start % RING_BYTES;
    const first = this.#ring.subarray(at, Math.min(RING_BYTES, at + bytes.length));
    bytes.set(first, 0);
    bytes.set(this.#ring.subarray(0, bytes.length - first.length), first.length);
    return { from: start, bytes };
  }

  /** Calls `listener` after each write, until the result is disposed. */
  listen(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }
}

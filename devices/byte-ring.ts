/** A FIFO of bytes with fixed capacity. */
export class ByteRing {
  readonly #bytes: Uint8Array;
  #first = 0;
  #length = 0;

  constructor(capacity: number) {
    this.#bytes = new Uint8Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  get room(): number {
    return this.#bytes.length - this.#length;
  }

  /** Appends a byte; the caller has checked {@link room}. */
  push(byte: number): void {
    this.#bytes[(this.#first + this.#length) % this.#bytes.length] = byte;
    this.#length++;
  }

  /** Removes and returns the oldest byte; 0 if the ring is empty. */
  shift(): number {
    if (this.#length === 0) return 0;
    const byte = this.#bytes[this.#first] as number;
    this.drop(1);
    return byte;
  }

  /** Copies the oldest bytes into `target`, as many as fit. Returns that part of `target`. */
  peek(target: Uint8Array): Uint8Array {
    const count = Math.min(target.length, this.#length);
    for (let i = 0; i < count; i++) target[i] = this.#bytes[(this.#first + i) % this.#bytes.length] as number;
    return target.subarray(0, count);
  }

  /** Removes the oldest `count` bytes. */
  drop(count: number): void {
    this.#first = (this.#first + count) % this.#bytes.length;
    this.#length -= count;
  }

  clear(): void {
    this.drop(this.#length);
  }
}

/**
 * A byte channel between threads: a ring in shared memory with one writer and one reader. A reader that finds no bytes,
 * or a writer that finds no room, requests a wake-up, and is woken once when there are some, or when half of it is free:
 * a wake-up for each byte would cost more than the byte. No call blocks.
 *
 * Int32 [0] bytes written so far [1] bytes read so far [2] 1: wake the reader [3] 1: wake the writer then CHANNEL_BYTES
 * of data
 */
export type ByteChannelBuffer = SharedArrayBuffer;

/** Capacity in bytes. */
export const CHANNEL_BYTES = 4096;
const MASK = CHANNEL_BYTES - 1;

const WRITTEN = 0;
const READ = 1;
const READER_WAITS = 2;
const WRITER_WAITS = 3;
const HEADER_BYTES = 16;

export const createByteChannel = (): ByteChannelBuffer => {
  const buffer = new SharedArrayBuffer(HEADER_BYTES + CHANNEL_BYTES);
  new Int32Array(buffer)[READER_WAITS] = 1;
  return buffer;
};

/** The writer's end. */
export class ChannelWriter {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #wakeReader: () => void;

  constructor(buffer: ByteChannelBuffer, wakeReader: () => void) {
    this.#words = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#bytes = new Uint8Array(buffer, HEADER_BYTES);
    this.#wakeReader = wakeReader;
  }

  /** Returns the bytes that can be written; if there is no room, requests a wake-up. */
  room(): number {
    const words = this.#words;
    const free = () => CHANNEL_BYTES - (((words[WRITTEN] as number) - Atomics.load(words, READ)) | 0);
    if (free() > 0) return free();
    Atomics.store(words, WRITER_WAITS, 1);
    return free();
  }

  /** Writes as many of the bytes as there is room for; returns how many. */
  write(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, bytes.length === 0 ? 0 : this.room());
    if (count === 0) return 0;
    const at = this.#words[WRITTEN] as number;
    for (let i = 0; i < count; i++) this.#bytes[(at + i) & MASK] = bytes[i] as number;
    Atomics.store(this.#words, WRITTEN, (at + count) | 0);
    if (Atomics.exchange(this.#words, READER_WAITS, 0) === 1) this.#wakeReader();
    return count;
  }
}

/** The reader's end. */
export class ChannelReader {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #wakeWriter: () => void;

  constructor(buffer: ByteChannelBuffer, wakeWriter: () => void) {
    this.#words = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#bytes = new Uint8Array(buffer, HEADER_BYTES);
    this.#wakeWriter = wakeWriter;
  }

  /** The oldest bytes, without a copy, valid until {@link take}. If there are none, requests a wake-up. */
  peek(): Uint8Array {
    let length = this.#length();
    if (length === 0) {
      Atomics.store(this.#words, READER_WAITS, 1);
      length = this.#length();
    }
    const at = (this.#words[READ] as number) & MASK;
    return this.#bytes.subarray(at, Math.min(at + length, CHANNEL_BYTES));
  }

  /** Removes the oldest `count` bytes, which {@link peek} has returned. */
  take(count: number): void {
    Atomics.store(this.#words, READ, ((this.#words[READ] as number) + count) | 0);
    if (this.#length() > CHANNEL_BYTES / 2 || Atomics.load(this.#words, WRITER_WAITS) === 0) return;
    if (Atomics.exchange(this.#words, WRITER_WAITS, 0) === 1) this.#wakeWriter();
  }

  /** Removes and returns the oldest byte; -1 if there is none. */
  next(): number {
    const byte = this.peek()[0];
    if (byte === undefined) return -1;
    this.take(1);
    return byte;
  }

  #length(): number {
    return (Atomics.load(this.#words, WRITTEN) - (this.#words[READ] as number)) | 0;
  }
}

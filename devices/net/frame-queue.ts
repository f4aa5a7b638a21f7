import { copyBytes } from './bytes.js';

/**
 * Frames queued for the guest: a ring of equal slots, allocated once, so that frames and bytes are bounded and queueing
 * does not allocate. A frame is built in place: {@link reserve} a slot, fill it, {@link commit} its length.
 */
export class FrameQueue {
  readonly #slots: readonly Uint8Array[];
  /** The frame in each slot. Kept for the next one, which often has the same length: a new view each time is garbage. */
  readonly #frames: Uint8Array[];
  readonly #counts: { rxDropped: number };
  #head = 0;
  #count = 0;

  /**
   * @param frames     capacity
   * @param frameBytes the longest frame, Ethernet header included
   * @param counts     counts frames dropped because the queue is full, or because they are too long for their receiver
   */
  constructor(frames: number, frameBytes: number, counts: { rxDropped: number }) {
    const arena = new Uint8Array(frames * frameBytes);
    this.#slots = Array.from({ length: frames }, (_, i) =>
      arena.subarray(i * frameBytes, (i + 1) * frameBytes),
    );
    this.#frames = [...this.#slots];
    this.#counts = counts;
  }

  /** Number of free slots. */
  get room(): number {
    return this.#slots.length - this.#count;
  }

  /**
   * Returns the next free slot, which still holds an old frame's bytes. Undefined if the queue is full, which is
   * counted. Valid until commit().
   */
  reserve(): Uint8Array | undefined {
    if (this.#count === this.#slots.length) {
      this.#counts.rxDropped++;
      return undefined;
    }
    return this.#slots[(this.#head + this.#count) % this.#slots.length];
  }

  /** Queues the slot last reserved. A slot that is not committed stays free. */
  commit(length: number): void {
    const at = (this.#head + this.#count) % this.#slots.length;
    if (this.#frames[at]!.length !== length) this.#frames[at] = this.#slots[at]!.subarray(0, length);
    this.#count++;
  }

  /** Length of the oldest frame; 0 if there is none. */
  pending(): number {
    return this.#count === 0 ? 0 : this.#frames[this.#head]!.length;
  }

  /**
   * Removes the oldest frame and copies it into `parts`. Returns its length, 0 if there is none, or -1 if it does not
   * fit and is dropped.
   */
  shiftInto(parts: readonly Uint8Array[]): number {
    if (this.#count === 0) return 0;
    const frame = this.#frames[this.#head]!;
    const { length } = frame;
    this.#head = (this.#head + 1) % this.#slots.length;
    this.#count--;
    const first = parts[0];
    if (first !== undefined && first.length >= length) {
      first.set(frame);
      return length;
    }
    let copied = 0;
    for (let i = 0; i < parts.length && copied < length; i++) {
      const part = parts[i]!;
      const bytes = Math.min(part.length, length - copied);
      copyBytes(part, 0, frame, copied, bytes);
      copied += bytes;
    }
    if (copied === length) return length;
    this.#counts.rxDropped++;
    return -1;
  }

  /** Drops all frames. */
  clear(): void {
    this.#count = 0;
  }
}

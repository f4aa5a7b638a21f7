import { signalEventfd } from '../../sys/eventfd.js';

/**
 * The messages of a function, MSI or MSI-X, in memory that threads share: any thread can send one at any time. A message that
 * cannot leave, as it is masked or held or has no eventfd, stays pending, and leaves when nothing keeps it. PCI Local Bus 3.0,
 * section 6.8.
 */
export type MessageSignalsBuffer = SharedArrayBuffer;

/** Most messages of a function: the MSI-X table's. */
export const MOST_MESSAGES = 2048;
const [COUNT, IS_HELD, SENT] = [0, 1, 2];
const HEAD = 4;
const FDS = HEAD;
const SENT_BY = FDS + MOST_MESSAGES;
const PENDING = SENT_BY + MOST_MESSAGES;
const MASKED = PENDING + MOST_MESSAGES / 32;
const WORDS = MASKED + MOST_MESSAGES / 32;

/** Allocates messages that are all off, and neither masked nor held. */
export const createMessageSignals = (): MessageSignalsBuffer => new SharedArrayBuffer(4 * WORDS);

/** One thread's view of a function's messages. */
export class MessageSignals {
  readonly #words: Int32Array;

  constructor(buffer: MessageSignalsBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Whether messages are on; the pin is off then. */
  get isEnabled(): boolean {
    return Atomics.load(this.#words, COUNT) > 0;
  }

  /**
   * Turns messages on with these eventfds, -1 for none, or off. A thread that is in {@link send} may still signal an old one:
   * before they are closed, wait for it. Machine thread only.
   */
  retarget(fds: readonly number[] | undefined): void {
    const words = this.#words;
    for (let i = 0; i < MOST_MESSAGES; i++) Atomics.store(words, FDS + i, fds?.[i] ?? -1);
    Atomics.store(words, COUNT, fds?.length ?? 0);
    if (fds === undefined) this.#clear(PENDING);
    else this.#sendPending();
  }

  /** Whether the function may not send at all, as while bus mastering is off. */
  set isHeld(value: boolean) {
    Atomics.store(this.#words, IS_HELD, value ? 1 : 0);
    if (!value) this.#sendPending();
  }

  /** Masks the first 32 messages by their bits, as the MSI capability's register does. */
  set maskBits(bits: number) {
    Atomics.store(this.#words, MASKED, bits);
    this.#sendPending();
  }

  /** Bits of 32 messages that are pending, from a multiple of 32 on. */
  pendingBits(first: number): number {
    return first < MOST_MESSAGES ? Atomics.load(this.#words, PENDING + (first >>> 5)) >>> 0 : 0;
  }

  /**
   * Sends a message, or leaves it pending. While messages are off, and for what is no message, nothing happens.
   * @param ignoresMask whether it leaves though it is masked, as a broken function's does
   */
  send(message: number, ignoresMask = false): void {
    if (!this.isEnabled || !(message >= 0 && message < MOST_MESSAGES)) return;
    if (this.#trySend(message, ignoresMask)) return;
    const [word, bit] = [PENDING + (message >>> 5), 1 << (message & 31)];
    Atomics.or(this.#words, word, bit);
    // What kept it may have ended before the bit was set.
    if (this.#canSend(message, false) && (Atomics.and(this.#words, word, ~bit) & bit) !== 0)
      this.#trySend(message, false);
  }

  /** Makes exactly these bits of 32 messages pending, as after a migration. @see pendingBits */
  restorePending(first: number, bits: number): void {
    if (first < MOST_MESSAGES) Atomics.store(this.#words, PENDING + (first >>> 5), bits);
  }

  /** Forgets what is pending: a reset of the function. */
  reset(): void {
    this.#clear(PENDING);
    this.#clear(MASKED);
  }

  /** Number of messages sent so far. */
  get sent(): number {
    return Atomics.load(this.#words, SENT);
  }

  /** Numbers sent so far, by message, up to the last that was ever sent. */
  get sentByMessage(): number[] {
    const counts = Array.from(this.#words.subarray(SENT_BY, SENT_BY + MOST_MESSAGES));
    return counts.slice(0, counts.findLastIndex((count) => count > 0) + 1);
  }

  #canSend(message: number, ignoresMask: boolean): boolean {
    const words = this.#words;
    const isMasked = (Atomics.load(words, MASKED + (message >>> 5)) & (1 << (message & 31))) !== 0;
    return (ignoresMask || !isMasked) && Atomics.load(words, IS_HELD) === 0 && this.#fdOf(message) >= 0;
  }

  #fdOf(message: number): number {
    const isThere = message < Atomics.load(this.#words, COUNT);
    return isThere ? Atomics.load(this.#words, FDS + message) : -1;
  }

  #trySend(message: number, ignoresMask: boolean): boolean {
    if (!this.#canSend(message, ignoresMask)) return false;
    const fd = this.#fdOf(message);
    if (fd < 0) return false;
    Atomics.add(this.#words, SENT, 1);
    Atomics.add(this.#words, SENT_BY + message, 1);
    signalEventfd(fd);
    return true;
  }

  #sendPending(): void {
    for (let first = 0; first < MOST_MESSAGES; first += 32) {
      for (let bits = this.pendingBits(first); bits !== 0; bits &= bits - 1) {
        const message = first + 31 - Math.clz32(bits & -bits);
        const bit = 1 << (message & 31);
        if (!this.#canSend(message, false)) continue;
        if ((Atomics.and(this.#words, PENDING + (first >>> 5), ~bit) & bit) !== 0)
          this.#trySend(message, false);
      }
    }
  }

  #clear(first: number): void {
    for (let i = 0; i < MOST_MESSAGES / 32; i++) Atomics.store(this.#words, first + i, 0);
  }
}

/**
 * How the owner of an event thread waits for its answers. The owner may be the main thread, which hears of a worker's end
 * only in its event loop: so the event thread itself announces its end here.
 *
 *   Int32 [0] answers so far, and the end; the owner sleeps on it
 *         [1] 1 when the thread has ended
 */
export type EventRepliesBuffer = SharedArrayBuffer;

const ANSWERED = 0;
const ENDED = 1;

export const createEventReplies = (): EventRepliesBuffer => new SharedArrayBuffer(8);

/** One side's view of the answers. */
export class EventReplies {
  readonly #words: Int32Array;

  constructor(buffer: EventRepliesBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Event thread: an answer has been sent. */
  answer(): void {
    Atomics.add(this.#words, ANSWERED, 1);
    Atomics.notify(this.#words, ANSWERED);
  }

  /** Event thread, when no task runs any more; and whoever has seen it end. */
  end(): void {
    Atomics.store(this.#words, ENDED, 1);
    this.answer();
  }

  get hasEnded(): boolean {
    return Atomics.load(this.#words, ENDED) === 1;
  }

  /** Owner: blocks until there are more answers than `seen`, or the thread has ended. */
  wait(seen: number): void {
    while (Atomics.load(this.#words, ANSWERED) === seen && !this.hasEnded)
      Atomics.wait(this.#words, ANSWERED, seen);
  }
}

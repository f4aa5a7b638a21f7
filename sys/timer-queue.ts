/** Timers of a thread that blocks in a system call with a timeout. */

/** The longest timeout of epoll_wait, ms. */
const LONGEST_WAIT_MS = 2 ** 31 - 1;
/** Most timers that fire between two polls, so that timers do not starve descriptors. */
const MOST_PER_RUN = 256;

interface Timer {
  /** Due time on the queue's clock, ms. */
  readonly due: number;
  /** Orders timers that are due at the same time. */
  readonly order: number;
  readonly fire: () => void;
  /** Its index in the heap; -1 after it has fired or is cancelled. */
  at: number;
}

const isBefore = (a: Timer, b: Timer): boolean => a.due < b.due || (a.due === b.due && a.order < b.order);

/** One-shot timers, ordered by due time. Cancelling one removes it. */
export class TimerQueue {
  readonly #now: () => number;
  /** A binary heap: no timer is due later than its two children. */
  readonly #heap: Timer[] = [];
  #lastOrder = 0;

  /** @param now a monotonic clock, ms */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get size(): number {
    return this.#heap.length;
  }

  /**
   * Calls `fire` once after `ms` milliseconds, never earlier. Disposing the result cancels it.
   * @throws RangeError unless `ms` is a number from 0 on
   */
  after(ms: number, fire: () => void): Disposable {
    if (!Number.isFinite(ms) || ms < 0) throw new RangeError(`a timer cannot fire after ${ms} ms`);
    const timer: Timer = { due: this.#now() + ms, order: ++this.#lastOrder, fire, at: this.#heap.length };
    this.#heap.push(timer);
    this.#rise(timer);
    return { [Symbol.dispose]: () => this.#remove(timer) };
  }

  /** Time until the next timer is due, in whole ms; -1 without timers. */
  timeout(): number {
    const [next] = this.#heap;
    if (next === undefined) return -1;
    return Math.min(Math.max(0, Math.ceil(next.due - this.#now())), LONGEST_WAIT_MS);
  }

  /**
   * Fires due timers in order, up to a limit. Timers above it, and those set in the meantime, wait for the next call.
   */
  run(): void {
    if (this.#heap.length === 0) return;
    const now = this.#now();
    const last = this.#lastOrder;
    for (let count = 0; count < MOST_PER_RUN; count++) {
      const [next] = this.#heap;
      if (next === undefined || next.due > now || next.order > last) return;
      this.#remove(next);
      next.fire();
    }
  }

  #remove(timer: Timer): void {
    const { at } = timer;
    if (at < 0) return;
    timer.at = -1;
    const moved = this.#heap.pop() as Timer;
    if (moved === timer) return;
    this.#put(moved, at);
    this.#rise(moved);
    this.#sink(moved);
  }

  #put(timer: Timer, at: number): void {
    this.#heap[at] = timer;
    timer.at = at;
  }

  #rise(timer: Timer): void {
    while (timer.at > 0) {
      const parent = this.#heap[(timer.at - 1) >> 1] as Timer;
      if (!isBefore(timer, parent)) return;
      const { at } = parent;
      this.#put(parent, timer.at);
      this.#put(timer, at);
    }
  }

  #sink(timer: Timer): void {
    for (;;) {
      const [left, right] = [this.#heap[2 * timer.at + 1], this.#heap[2 * timer.at + 2]];
      const child = left !== undefined && right !== undefined && isBefore(right, left) ? right : left;
      if (child === undefined || !isBefore(child, timer)) return;
      const { at } = child;
      this.#put(child, timer.at);
      this.#put(timer, at);
    }
  }
}

import type { Clock } from '../core/clock.js';

/** A clock that stands still until it is told to go on. */
export class FakeClock implements Clock {
  #now = 0;
  readonly #timers = new Set<{ readonly at: number; readonly fire: () => void }>();

  /** Milliseconds since it was made. */
  get now(): number {
    return this.#now;
  }

  /** Timers that have not fired. */
  get pending(): number {
    return this.#timers.size;
  }

  after(ms: number, fire: () => void): Disposable {
    const timer = { at: this.#now + ms, fire };
    this.#timers.add(timer);
    return { [Symbol.dispose]: () => this.#timers.delete(timer) };
  }

  /** Goes on by `ms`, firing what is due in order; tasks that were waiting have gone on when it resolves. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#now = due.at;
      this.#timers.delete(due);
      due.fire();
      await settle();
    }
    this.#now = end;
    await settle();
  }
}

/** Resolves when all that could go on without time passing has gone on. */
export async function settle(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}

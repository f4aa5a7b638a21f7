import type { EventContext } from '../../sys/event-task.js';

/** Least time between two turns. */
const TURN_GAP_MS = 1;

/**
 * Asks the registers' thread for turns of queues that it serves: for one at a time, so that no number of doorbells makes more,
 * and for the next one later, so that other work of that thread comes first. Event thread only.
 */
export class TurnRequests {
  readonly #context: EventContext;
  readonly #ask: () => void;
  readonly #isWanted: () => boolean;
  #isAsked = false;
  #isAskedAgain = false;

  /**
   * @param ask sends the request, which the other thread answers by having {@link end} called
   * @param isWanted whether there is still a queue to serve
   */
  constructor(context: EventContext, ask: () => void, isWanted: () => boolean) {
    this.#context = context;
    this.#ask = ask;
    this.#isWanted = isWanted;
  }

  /** Asks for a turn; during a turn, for another one. */
  ask(): void {
    if (this.#isAsked) {
      this.#isAskedAgain = true;
      return;
    }
    this.#isAsked = true;
    this.#ask();
  }

  /** The turn is over. */
  end(hasMore: boolean): void {
    this.#isAsked = false;
    if (!hasMore && !this.#isAskedAgain) return;
    this.#isAskedAgain = false;
    this.#context.after(TURN_GAP_MS, () => {
      if (this.#isWanted()) this.ask();
    });
  }
}

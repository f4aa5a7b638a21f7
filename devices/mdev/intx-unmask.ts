import type { EventContext } from '../../sys/event-task.js';
import { drainEventfd } from '../../sys/eventfd.js';
import type { IntxPin } from './intx-pin.js';

/** Unmasks a pin whenever the user signals an eventfd (SET_IRQS, INTx, ACTION_UNMASK). Event thread only. */
export class IntxUnmask implements Disposable {
  readonly #pin: IntxPin;
  readonly #context: EventContext;
  #watch: Disposable | undefined;

  constructor(pin: IntxPin, context: EventContext) {
    this.#pin = pin;
    this.#context = context;
  }

  /** Takes another eventfd, -1 for none; the one before is not read any more. @throws SysError if it cannot be watched */
  by(fd: number): void {
    this[Symbol.dispose]();
    if (fd < 0) return;
    const unmask = () => {
      drainEventfd(fd);
      this.#pin.isMasked = false;
    };
    this.#watch = this.#context.watch(fd, unmask, true);
  }

  [Symbol.dispose](): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }
}

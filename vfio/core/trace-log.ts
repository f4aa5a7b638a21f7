import { trace, type VfioEvent } from '../../sys/trace.js';
import type { Executor } from './steps.js';

/** What an event is about: everything but who did it, and why. */
export type VfioDetails = Omit<VfioEvent, 'what' | 'seq' | 'cause' | 'task'>;

const nothing: Disposable = { [Symbol.dispose]: () => undefined };

/** Publishes the core's events, each with its cause; costs one comparison when nobody listens. */
export class TraceLog {
  readonly #executor: Executor;
  #lastSeq = 0;

  constructor(executor: Executor) {
    this.#executor = executor;
  }

  event(what: string, details: VfioDetails): void {
    if (trace.vfio.hasSubscribers) this.#publish(what, details);
  }

  /** An event that causes all those of its task until the result is disposed. */
  span(what: string, details: VfioDetails): Disposable {
    if (!trace.vfio.hasSubscribers) return nothing;
    const task = this.#executor.current;
    const outer = task.cause;
    task.cause = this.#publish(what, details);
    return {
      [Symbol.dispose]: () => {
        task.cause = outer;
      },
    };
  }

  #publish(what: string, details: VfioDetails): number {
    const { name, cause } = this.#executor.current;
    const seq = ++this.#lastSeq;
    trace.vfio.publish({ ...details, what, seq, cause, task: name });
    return seq;
  }
}

import { trace, type VfioEvent } from '../../sys/trace.js';
import type { Executor } from './steps.js';

/** The fields of an event that its publisher provides; the log adds the task, the number and the cause. */
export type VfioDetails = Omit<VfioEvent, 'what' | 'seq' | 'cause' | 'task'>;

const nothing: Disposable = { [Symbol.dispose]: () => undefined };

/** Publishes the core's events with their causes. Without subscribers an event costs one comparison. */
export class TraceLog {
  readonly #executor: Executor;
  #lastSeq = 0;

  constructor(executor: Executor) {
    this.#executor = executor;
  }

  event(what: string, details: VfioDetails): void {
    if (trace.vfio.hasSubscribers) this.#publish(what, details);
  }

  /** Publishes an event that is the cause of the task's events until the result is disposed. */
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

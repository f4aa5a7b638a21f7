import { trace } from '../../sys/trace.js';
import type { Executor } from './steps.js';

/** What the core publishes on `trace.vfio`. */
export interface VfioEvent {
  /** Kernel's word for what happens: `set_kvm`, `open_device`. */
  readonly what: string;
  /** Counts from 1 within one core. */
  readonly seq: number;
  /** `seq` of the event this one follows from; 0 if it came from outside. */
  readonly cause: number;
  /** Task that did it. */
  readonly task: string;
  readonly [detail: string]: unknown;
}

const nothing: Disposable = { [Symbol.dispose]: () => undefined };

/** Publishes the core's events, each with its cause; costs one comparison when nobody listens. */
export class TraceLog {
  readonly #executor: Executor;
  #lastSeq = 0;

  constructor(executor: Executor) {
    this.#executor = executor;
  }

  event(what: string, details: Readonly<Record<string, unknown>>): void {
    if (trace.vfio.hasSubscribers) this.#publish(what, details);
  }

  /** An event that causes all those of its task until the result is disposed. */
  span(what: string, details: Readonly<Record<string, unknown>>): Disposable {
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

  #publish(what: string, details: Readonly<Record<string, unknown>>): number {
    const { name, cause } = this.#executor.current;
    const event: VfioEvent = { ...details, what, seq: ++this.#lastSeq, cause, task: name };
    trace.vfio.publish(event);
    return event.seq;
  }
}

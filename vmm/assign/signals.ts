import type { Signals } from '../../devices/contracts.js';
import type { EventTask, EventThread } from '../../sys/event-task.js';
import { disposable } from '../../sys/scope.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { SignalCommand } from './signal-task.js';

/** Eventfds of rare events, watched by a task of the event thread that wakes the machine thread. Machine thread only. */
export class EventSignals implements Signals, Disposable {
  readonly #task: EventTask;
  readonly #ready = new Map<number, () => void>();
  #lastToken = 0;

  constructor(eventThread: EventThread) {
    this.#task = eventThread.run(workerUrl('vmm/assign/signal-task.js'), undefined);
    // A notification may arrive after its watch was removed.
    this.#task.receive = (token) => this.#ready.get(token as number)?.();
  }

  watch(fd: number, ready: () => void): Disposable {
    const token = ++this.#lastToken;
    this.#task.call({ kind: 'watch', token, fd } satisfies SignalCommand);
    this.#ready.set(token, ready);
    return disposable(() => {
      this.#ready.delete(token);
      this.#task.call({ kind: 'unwatch', token } satisfies SignalCommand);
    });
  }

  /** Stops the task; no callback runs after that. */
  [Symbol.dispose](): void {
    this.#task[Symbol.dispose]();
  }
}

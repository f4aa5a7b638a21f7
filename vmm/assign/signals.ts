import type { Signals } from '../../devices/contracts.js';
import type { EventTask, EventThread } from '../../sys/event-task.js';
import { disposable } from '../../sys/scope.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { SignalCommand } from './signal-task.js';

/** Rare events of devices: the event thread waits for them, and wakes the machine thread. Machine thread only. */
export class EventSignals implements Signals, Disposable {
  readonly #task: EventTask;
  readonly #ready = new Map<number, () => void>();
  #lastToken = 0;

  constructor(eventThread: EventThread) {
    this.#task = eventThread.run(workerUrl('vmm/assign/signal-task.js'), undefined);
    // One may have been on its way when its watch was taken away.
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

  /** Ends the task in the event thread; watches no longer report. */
  [Symbol.dispose](): void {
    this.#task[Symbol.dispose]();
  }
}

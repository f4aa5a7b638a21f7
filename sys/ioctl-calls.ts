import type { EventThread } from './event-task.js';
import type { IoctlCall, IoctlResult, IoctlTaskData, IoctlTaskMessage } from './ioctl-task.js';
import { workerUrl } from './worker-url.js';

/** The module that makes the calls. */
export const IOCTL_TASK = workerUrl('sys/ioctl-task.js');

/**
 * Ioctls that an event thread makes while their owner goes on, in their order. Disposing it ends that: it waits for the one that is
 * being made, and the rest are not made. Used by the thread that owns the event thread.
 */
export class IoctlCalls implements Disposable {
  readonly #task;

  /**
   * @param made called once all have been made, between exits of the owner's thread; not after the disposal
   * @throws as {@link EventThread.run}
   */
  constructor(
    eventThread: EventThread,
    thread: 'shared' | 'own',
    calls: readonly IoctlCall[],
    made: () => void,
  ) {
    this.#task = eventThread.run(IOCTL_TASK, { calls } satisfies IoctlTaskData, thread);
    this.#task.receive = made;
  }

  /** Waits until all have been made. @returns what each gave @throws Error if the event thread has ended */
  finish(): readonly IoctlResult[] {
    return this.#ask('finish');
  }

  /** Waits for the one that is being made. @returns what those that were made gave @throws as {@link finish} */
  results(): readonly IoctlResult[] {
    return this.#ask('results');
  }

  #ask(message: IoctlTaskMessage): readonly IoctlResult[] {
    return this.#task.call(message) as readonly IoctlResult[];
  }

  [Symbol.dispose](): void {
    this.#task[Symbol.dispose]();
  }
}

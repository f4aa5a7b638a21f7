import { Epoll } from './epoll.js';
import type { EventTask, EventTaskHandlers, EventThread, StartEventTask } from './event-task.js';
import { TimerQueue } from './timer-queue.js';

const MOST_ROUNDS = 10_000;

/**
 * An event thread without a thread: tasks run in the calling thread, calls return their reply synchronously, and
 * {@link pump} polls fds and timers. Messages are cloned as between threads.
 */
export class InlineEventThread implements EventThread, Disposable {
  readonly #modules: ReadonlyMap<string, StartEventTask>;
  readonly #epoll = Epoll.create();
  readonly #timers = new TimerQueue();
  readonly #notices: (() => void)[] = [];
  #hasRun = false;

  /** @param modules the `start` exports by module URL */
  constructor(modules: ReadonlyMap<string, StartEventTask>) {
    this.#modules = modules;
  }

  run(module: URL, data: unknown): EventTask {
    const start = this.#modules.get(module.href);
    if (start === undefined) throw new Error(`${module.href} has no export named start`);
    const watches = new Set<Disposable>();
    const keep = (watch: Disposable): Disposable => {
      watches.add(watch);
      return {
        [Symbol.dispose]() {
          watches.delete(watch);
          watch[Symbol.dispose]();
        },
      };
    };
    const handlers: EventTaskHandlers = start(structuredClone(data), {
      watch: (fd, ready, isEdge) => keep(this.#epoll.watch(fd, () => this.#handle(ready), isEdge)),
      watchWritable: (fd, ready) => keep(this.#epoll.watchWritable(fd, () => this.#handle(ready))),
      after: (ms, callback) => {
        const timer = this.#timers.after(ms, () => {
          watches.delete(timer);
          this.#handle(callback);
        });
        return keep(timer);
      },
      notify: (message) => {
        const copy = structuredClone(message);
        this.#notices.push(() => task.receive?.(copy));
      },
    });
    let isRunning = true;
    const call = (message: unknown): unknown =>
      isRunning ? structuredClone(handlers.message(structuredClone(message))) : undefined;
    const task: EventTask = {
      receive: undefined,
      post: call,
      call,
      [Symbol.dispose]() {
        if (!isRunning) return;
        isRunning = false;
        handlers.stop();
        for (const watch of watches) watch[Symbol.dispose]();
      },
    };
    return task;
  }

  /** Runs the callbacks of ready fds until none is ready, then delivers the tasks' messages. */
  pump(): void {
    let rounds = 0;
    do {
      if (++rounds > MOST_ROUNDS) throw new Error('a task never comes to rest');
      this.#hasRun = false;
      this.#epoll.wait(0);
      this.#timers.run();
    } while (this.#hasRun);
    for (const deliver of this.#notices.splice(0)) deliver();
  }

  #handle(ready: () => void): void {
    this.#hasRun = true;
    ready();
  }

  /** Closes the epoll instance. Dispose the tasks first. */
  [Symbol.dispose](): void {
    this.#epoll[Symbol.dispose]();
  }
}

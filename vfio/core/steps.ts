/**
 * Operations that take locks are generators of steps, so that tests can choose their interleavings. A step is a wait,
 * or a named point at which another task may run. The public calls run an operation to its end ({@link Executor.run}),
 * operations with unbounded waits return a Promise ({@link Executor.start}), and the testing kit's scheduler runs one
 * step of one task at a time ({@link Executor.step}).
 */
import type { Clock } from './clock.js';

/** Why a wait ended. */
export type WakeReason = 'ready' | 'timeout' | 'interrupted';

/** A named preemption point, or a wait. */
export type Step = string | Wait;

/** An operation in steps. */
export type Steps<T> = Generator<Step, T, WakeReason>;

/** A condition that a task waits for. The wait ends when `isReady` returns true, at the timeout, or at the abort. */
export interface Wait {
  /** Name of the condition, for messages: `completion of device vfio0`. */
  readonly what: string;
  /** Where the task sleeps. */
  readonly queue: WaitQueue;
  /** Whether the wait is over. */
  isReady(): boolean;
  /** Milliseconds after which it ends as `timeout`; never if absent. */
  readonly timeoutMs?: number;
  /** Aborting it interrupts the wait. */
  readonly signal?: AbortSignal | undefined;
  /** The tasks that hold the lock, for a wait for one. */
  holders?(): readonly Task[];
}

/** Where tasks sleep until a condition may have become true. */
export class WaitQueue {
  /** Created by the first sleeper: there are many queues, and tasks wait at few of them. */
  #sleepers: Set<() => void> | undefined;

  /** Calls `check` on each {@link wake} until disposed. */
  add(check: () => void): Disposable {
    this.#sleepers ??= new Set();
    const sleepers = this.#sleepers.add(check);
    return { [Symbol.dispose]: () => sleepers.delete(check) };
  }

  /** Lets every sleeper check whether its wait is over. */
  wake(): void {
    if (this.#sleepers === undefined || this.#sleepers.size === 0) return;
    for (const check of [...this.#sleepers]) check();
  }
}

/** A one-time event that any number of tasks can wait for. */
export class Completion {
  readonly queue = new WaitQueue();
  readonly what: string;
  #isDone = false;

  constructor(what: string) {
    this.what = what;
  }

  get isDone(): boolean {
    return this.#isDone;
  }

  complete(): void {
    this.#isDone = true;
    this.queue.wake();
  }

  *wait(
    options: { readonly timeoutMs?: number; readonly signal?: AbortSignal | undefined } = {},
  ): Steps<WakeReason> {
    return yield { what: this.what, queue: this.queue, isReady: () => this.#isDone, ...options };
  }
}

/** A lock, for messages and the check of lock order. */
export interface Lock {
  /** Name of this lock: `group 3 group_rwsem`. */
  readonly name: string;
  /** Name that all locks of the same kind share: `group_rwsem`. */
  readonly kind: string;
  /** Whether its holder must not wait. */
  readonly isSpin: boolean;
}

/** A task, which runs operations: the kernel's `current` is one. */
export class Task {
  /** Name for messages and trace events. */
  readonly name: string;
  /** Number, unique in its executor. */
  readonly id: number;
  /** Locks held, oldest first. */
  readonly held: Lock[] = [];
  /** `seq` of the trace event that causes the task's next events; 0 for none. */
  cause = 0;

  constructor(name: string, id: number) {
    this.name = name;
    this.id = id;
  }
}

/** Every task waits for another one, so none can ever run again. */
export class DeadlockError extends Error {
  constructor(text: string) {
    super(text);
    this.name = 'DeadlockError';
  }
}

/** Whether a driver's function returned a generator of steps. */
export const isSteps = (value: unknown): value is Steps<void> =>
  typeof value === 'object' && value !== null && Symbol.iterator in value && 'next' in value;

/** Runs `result` if the driver's or listener's function is a generator of steps. */
export function* maybeSteps(result: unknown): Steps<void> {
  if (isSteps(result)) yield* result;
}

/** Whether the task can run after this step. */
export const isReady = (step: Step): boolean => typeof step === 'string' || step.isReady();

/** A wait's condition and the tasks that block it: `group 3 lock, held by DEL`. */
export function describeWait(wait: Wait): string {
  const holders = wait.holders?.() ?? [];
  return holders.length === 0
    ? wait.what
    : `${wait.what}, held by ${holders.map(({ name }) => name).join(', ')}`;
}

/** Runs operations, and tracks which task is running. */
export class Executor {
  readonly #clock: Clock;
  readonly #warn: (text: string) => void;
  /** The task of calls that come from outside any task. */
  readonly #caller = new Task('caller', 1);
  #current: Task | undefined;
  #lastId = 1;

  constructor(clock: Clock, warn: (text: string) => void) {
    this.#clock = clock;
    this.#warn = warn;
  }

  /** The running task. */
  get current(): Task {
    return this.#current ?? this.#caller;
  }

  /** Creates a task, which runs nothing yet. */
  createTask(name: string): Task {
    return new Task(name, ++this.#lastId);
  }

  /**
   * Runs `steps` to their end in the calling task.
   * @throws DeadlockError if they would have to wait: no other task can run in the meantime
   */
  run<T>(steps: Steps<T>): T {
    const outer = this.#current;
    const task = outer ?? this.#caller;
    const heldBefore = task.held.length;
    this.#current = task;
    try {
      let result = steps.next('ready');
      while (!result.done) {
        const step = result.value;
        if (isReady(step)) result = steps.next('ready');
        else
          result = steps.throw(
            new DeadlockError(`${task.name} would wait forever for ${describeWait(step as Wait)}`),
          );
      }
      return result.value;
    } finally {
      this.#current = outer;
      this.checkHeld(task, heldBefore);
    }
  }

  /** Runs one step of `steps` as `task`. */
  step<T>(task: Task, steps: Steps<T>, reason: WakeReason): IteratorResult<Step, T> {
    const outer = this.#current;
    this.#current = task;
    try {
      return steps.next(reason);
    } finally {
      this.#current = outer;
    }
  }

  /**
   * Runs `steps` as a task of its own: synchronously up to the first wait, and on when a wait ends, but never inside
   * another operation.
   */
  async start<T>(name: string, steps: Steps<T>): Promise<T> {
    const task = this.createTask(name);
    try {
      let result = this.step(task, steps, 'ready');
      while (!result.done) {
        const step = result.value;
        let reason: WakeReason = 'ready';
        if (!isReady(step)) {
          this.checkHeld(task, 0);
          reason = await this.#sleep(step as Wait);
        }
        result = this.step(task, steps, reason);
      }
      return result.value;
    } finally {
      this.checkHeld(task, 0);
    }
  }

  #sleep(wait: Wait): Promise<WakeReason> {
    return new Promise((resolve) => {
      const ends: Disposable[] = [];
      const end = (reason: WakeReason) => {
        for (const each of ends) each[Symbol.dispose]();
        resolve(reason);
      };
      ends.push(wait.queue.add(() => wait.isReady() && end('ready')));
      if (wait.timeoutMs !== undefined) ends.push(this.#clock.after(wait.timeoutMs, () => end('timeout')));
      const { signal } = wait;
      if (signal === undefined) return;
      const interrupt = () => end('interrupted');
      signal.addEventListener('abort', interrupt);
      ends.push({ [Symbol.dispose]: () => signal.removeEventListener('abort', interrupt) });
      if (signal.aborted) interrupt();
    });
  }

  /** Warns if a task keeps locks when it ends, or while it waits for an unbounded time. */
  checkHeld(task: Task, before: number): void {
    if (task.held.length <= before) return;
    const names = task.held.slice(before).map(({ name }) => name);
    this.#warn(`${task.name} ended or waits while holding ${names.join(', ')}`);
  }
}

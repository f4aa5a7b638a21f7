/**
 * Operations that take locks are generators of steps, so that their interleavings can be chosen: a step is a named point
 * at which another task may run, or a wait. The public calls run them to the end at once ({@link Executor.run}), waits
 * of unbounded length give a Promise ({@link Executor.start}), and the testing kit's scheduler takes one step of one
 * task at a time ({@link Executor.step}).
 */
import type { Clock } from './clock.js';

/** Why a wait ended. */
export type WakeReason = 'ready' | 'timeout' | 'interrupted';

/** A preemption point by its name, or a wait. */
export type Step = string | Wait;

/** An operation in steps. */
export type Steps<T> = Generator<Step, T, WakeReason>;

/** Something a task waits for; the task goes on when `isReady` holds, or for one of the other two reasons. */
export interface Wait {
  /** For messages: `completion of device vfio0`. */
  readonly what: string;
  /** Where the task sleeps. */
  readonly queue: WaitQueue;
  /** Whether the wait is over. */
  isReady(): boolean;
  /** Milliseconds after which it ends as `timeout`; never if absent. */
  readonly timeoutMs?: number;
  /** Aborting it interrupts the wait. */
  readonly signal?: AbortSignal | undefined;
  /** The tasks in the way, for a lock. */
  holders?(): readonly Task[];
}

/** Where tasks sleep until what they wait for may have come about. */
export class WaitQueue {
  /** Made with the first sleeper: there are many queues, and few are ever waited at. */
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

/** Done once, waited for by any number of tasks. */
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

/** A lock as messages and the order check see it. */
export interface Lock {
  /** `group 3 group_rwsem` */
  readonly name: string;
  /** Locks of one kind share it: `group_rwsem`. */
  readonly kind: string;
  /** Whether its holder may not wait. */
  readonly isSpin: boolean;
}

/** Who does something: what the kernel calls `current`. */
export class Task {
  /** Name for messages and trace events. */
  readonly name: string;
  /** Number, unique in its executor. */
  readonly id: number;
  /** Locks held, oldest first. */
  readonly held: Lock[] = [];
  /** Trace event that the task's next events follow from; 0 for none. */
  cause = 0;

  constructor(name: string, id: number) {
    this.name = name;
    this.id = id;
  }
}

/** Every task that could go on waits for another one: nothing can ever run again. */
export class DeadlockError extends Error {
  constructor(text: string) {
    super(text);
    this.name = 'DeadlockError';
  }
}

/** Tells a generator from whatever else a driver's function may have returned. */
export const isSteps = (value: unknown): value is Steps<void> =>
  typeof value === 'object' && value !== null && Symbol.iterator in value && 'next' in value;

/** Goes through `result` if a driver's or listener's function was written as steps. */
export function* maybeSteps(result: unknown): Steps<void> {
  if (isSteps(result)) yield* result;
}

/** Whether the task may go on from this step. */
export const isReady = (step: Step): boolean => typeof step === 'string' || step.isReady();

/** What a task waits for, and who is in the way: `group 3 lock, held by DEL`. */
export function describeWait(wait: Wait): string {
  const holders = wait.holders?.() ?? [];
  return holders.length === 0
    ? wait.what
    : `${wait.what}, held by ${holders.map(({ name }) => name).join(', ')}`;
}

/** Runs operations: the one place that knows which task is running. */
export class Executor {
  readonly #clock: Clock;
  readonly #warn: (text: string) => void;
  /** Calls from outside any task are made by this one, one after the other. */
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

  /** Makes a task that has taken no step yet. */
  createTask(name: string): Task {
    return new Task(name, ++this.#lastId);
  }

  /**
   * Runs to the end in the calling task.
   * @throws DeadlockError where it would have to wait: nobody else can run meanwhile
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
            new DeadlockError(`${task.name} would wait for ever for ${describeWait(step as Wait)}`),
          );
      }
      return result.value;
    } finally {
      this.#current = outer;
      this.checkHeld(task, heldBefore);
    }
  }

  /** Takes one step of `steps` as `task`. */
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
   * Runs as a task of its own, at once as far as it goes, then whenever what it waits for has come about: never inside
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

  /** A task may sleep for long, or end, only without locks. */
  checkHeld(task: Task, before: number): void {
    if (task.held.length <= before) return;
    const names = task.held.slice(before).map(({ name }) => name);
    this.#warn(`${task.name} went away holding ${names.join(', ')}`);
  }
}

/**
 * A deterministic scheduler. Operations in steps become tasks; the test, or a search, chooses the task that runs the
 * next step. Locks block, deadlocks are detected, and the same choices reproduce the same history.
 */
import {
  DeadlockError,
  describeWait,
  type Executor,
  isReady,
  type Step,
  type Steps,
  type Task,
  type WakeReason,
} from '../core/steps.js';

/** A task under the scheduler. */
export class ScheduledTask<T = unknown> {
  /** Name in {@link Scheduler.history} and in messages. */
  readonly name: string;
  readonly #task: Task;
  readonly #executor: Executor;
  readonly #steps: Steps<T>;
  #at: Step | undefined;
  #result: { readonly value: T } | { readonly error: unknown } | undefined;

  constructor(executor: Executor, name: string, steps: Steps<T>) {
    this.name = name;
    this.#executor = executor;
    this.#task = executor.createTask(name);
    this.#steps = steps;
  }

  /** Whether it has returned or thrown. */
  get isDone(): boolean {
    return this.#result !== undefined;
  }

  /** Whether its next step would not wait. */
  get isRunnable(): boolean {
    return !this.isDone && (this.#at === undefined || isReady(this.#at));
  }

  /** Whether its wait has a timeout, which expires when no task is runnable. */
  get isTimed(): boolean {
    return !this.isDone && typeof this.#at === 'object' && this.#at.timeoutMs !== undefined;
  }

  /** Its position: a preemption point's name, the condition it waits for, `start` or `end`. */
  get at(): string {
    if (this.isDone) return 'end';
    if (this.#at === undefined) return 'start';
    return typeof this.#at === 'string' ? this.#at : describeWait(this.#at);
  }

  /** Its return value. @throws the task's own exception; Error if it has not ended */
  get value(): T {
    if (this.#result === undefined) throw new Error(`${this.name} has not ended: it is at ${this.at}`);
    if ('error' in this.#result) throw this.#result.error;
    return this.#result.value;
  }

  /** The exception that it threw; undefined if it threw none. */
  get error(): unknown {
    return this.#result !== undefined && 'error' in this.#result ? this.#result.error : undefined;
  }

  /** Runs one step. */
  step(reason: WakeReason = 'ready'): void {
    try {
      const result = this.#executor.step(this.#task, this.#steps, reason);
      if (result.done) {
        this.#result = { value: result.value };
        this.#executor.checkHeld(this.#task, 0);
      } else this.#at = result.value;
    } catch (error) {
      this.#result = { error };
      this.#executor.checkHeld(this.#task, 0);
    }
  }
}

/** Picks the next task among those that can run. */
export type Choose = (runnable: readonly ScheduledTask[], last: ScheduledTask | undefined) => ScheduledTask;

/** Runs tasks of one core, one step at a time. */
export class Scheduler {
  readonly #executor: Executor;
  readonly #tasks: ScheduledTask[] = [];
  /** Names of the tasks in the order of their steps. */
  readonly history: string[] = [];

  /** @param executor of the core: `core.environment.executor` */
  constructor(executor: Executor) {
    this.#executor = executor;
  }

  /** All tasks, oldest first, ended ones included. */
  get tasks(): readonly ScheduledTask[] {
    return this.#tasks;
  }

  /** Adds a task, without running a step of it. */
  spawn<T>(name: string, steps: Steps<T>): ScheduledTask<T> {
    const task = new ScheduledTask(this.#executor, name, steps);
    this.#tasks.push(task as ScheduledTask);
    return task;
  }

  /**
   * Runs a task up to a preemption point whose name contains `point`.
   * @throws Error if it blocks or ends before that
   */
  runTo(task: ScheduledTask<never> | ScheduledTask, point: string): void {
    while (!task.at.includes(point)) {
      if (!task.isRunnable) throw new Error(`${task.name} is at ${task.at}, and never came to ${point}`);
      this.#step(task as ScheduledTask);
    }
  }

  /** Runs a task until it ends or blocks. Returns whether it has ended. */
  run(task: ScheduledTask<never> | ScheduledTask): boolean {
    while (task.isRunnable) this.#step(task as ScheduledTask);
    return task.isDone;
  }

  /**
   * Runs tasks until all have ended; `choose` picks the task of each step, by default the oldest one.
   * @throws DeadlockError, naming each task's condition, if no task can run
   */
  runAll(choose: Choose = ([first]) => first as ScheduledTask): void {
    let last: ScheduledTask | undefined;
    for (;;) {
      const left = this.#tasks.filter(({ isDone }) => !isDone);
      if (left.length === 0) return;
      const runnable = left.filter(({ isRunnable }) => isRunnable);
      const timed = left.find(({ isTimed }) => isTimed);
      if (runnable.length > 0) {
        last = choose(runnable, last);
        this.#step(last);
      } else if (timed !== undefined) {
        this.history.push(`${timed.name} (timeout)`);
        timed.step('timeout');
      } else {
        throw new DeadlockError(left.map(({ name, at }) => `${name} waits for ${at}`).join('; '));
      }
    }
  }

  /** Runs one step of each named task in turn, then all tasks to their end. @param names a {@link history} */
  replay(names: readonly string[]): void {
    for (const name of names) {
      const task = this.#tasks.find((candidate) => candidate.name === name && candidate.isRunnable);
      if (task !== undefined) this.#step(task);
    }
    this.runAll();
  }

  #step(task: ScheduledTask): void {
    this.history.push(task.name);
    task.step();
  }
}

/** One run of {@link everyInterleaving}, in a new world; `check` is called when all tasks have ended. */
export interface InterleavingRun {
  /** The scheduler that holds this run's tasks. */
  readonly scheduler: Scheduler;
  /** Checks the state after all tasks. @throws any error, to fail the run */
  check(): void;
}

/**
 * Runs `begin` once for each interleaving of its tasks with at most `preemptions` switches away from a runnable task;
 * switches away from a task that ends or blocks do not count. Returns the number of interleavings.
 * @throws Error with the interleaving, for {@link Scheduler.replay}; its cause is the error of `check` or the deadlock
 */
export function everyInterleaving(begin: () => InterleavingRun, preemptions = 2): number {
  let prefix: number[] = [];
  for (let runs = 1; ; runs++) {
    const { scheduler, check } = begin();
    const choices: { readonly picked: number; readonly options: number }[] = [];
    let left = preemptions;
    try {
      scheduler.runAll((runnable, last) => {
        const mayGoOn = last !== undefined && runnable.includes(last);
        // The running task first: choice 0 is no switch.
        const ordered = mayGoOn ? [last, ...runnable.filter((task) => task !== last)] : runnable;
        const options = mayGoOn && left === 0 ? 1 : ordered.length;
        const picked = prefix[choices.length] ?? 0;
        choices.push({ picked, options });
        if (mayGoOn && picked > 0) left--;
        return ordered[picked] as ScheduledTask;
      });
      check();
    } catch (cause) {
      throw new Error(`interleaving ${runs}: ${scheduler.history.join(' ')}: ${String(cause)}`, { cause });
    }
    while (choices.length > 0 && (choices.at(-1)?.picked ?? 0) + 1 >= (choices.at(-1)?.options ?? 0))
      choices.pop();
    const last = choices.pop();
    if (last === undefined) return runs;
    prefix = [...choices.map(({ picked }) => picked), last.picked + 1];
  }
}

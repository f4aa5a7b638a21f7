/**
 * The kernel's locks over {@link Steps}. They block the stepping task, and report a task that waits for itself or takes
 * locks in an order that could deadlock. `using held = yield* lock.acquire()` holds a lock until the end of the block.
 */
import type { LockOrder } from './lock-order.js';
import {
  DeadlockError,
  type Executor,
  type Lock,
  type Steps,
  type Task,
  type Wait,
  WaitQueue,
} from './steps.js';

/** Services that locks use. */
export interface LockContext {
  /** Its `current` is the running task. */
  readonly executor: Executor;
  /** Checks the order in which tasks take locks. */
  readonly order: LockOrder;
  /** Reports a condition that only a bug can cause. */
  warn(text: string): void;
}

function release(lock: Lock, task: Task): void {
  const index = task.held.lastIndexOf(lock);
  if (index < 0) throw new DeadlockError(`${task.name} releases ${lock.name}, which it does not hold`);
  task.held.splice(index, 1);
}

/** A lock that one task at a time can hold. */
export class Mutex implements Lock, Disposable {
  readonly kind: string;
  readonly name: string;
  /** Whether its holder may not wait. */
  readonly isSpin: boolean;
  readonly #context: LockContext;
  readonly #queue = new WaitQueue();
  readonly #point: string;
  #owner: Task | undefined;

  /** @param of owner of the lock: `group 3`; empty for the only one of its kind */
  constructor(context: LockContext, kind: string, of = '', isSpin = false) {
    this.#context = context;
    this.kind = kind;
    this.name = of === '' ? kind : `${of} ${kind}`;
    this.isSpin = isSpin;
    this.#point = `before ${this.name}`;
  }

  /** Whether any task holds it. */
  get isHeld(): boolean {
    return this.#owner !== undefined;
  }

  /** Whether the running task holds it. */
  get isMine(): boolean {
    return this.#owner === this.#context.executor.current;
  }

  /**
   * Takes the lock, waiting while another task holds it.
   * @returns disposing it releases the lock
   * @throws DeadlockError if the running task already holds it
   */
  *acquire(): Steps<Disposable> {
    yield this.#point;
    const { executor, order } = this.#context;
    const task = executor.current;
    order.check(task, this);
    if (this.#owner === task)
      throw new DeadlockError(`${task.name} takes ${this.name}, which it already holds`);
    while (this.#owner !== undefined) yield this.#wait();
    this.#owner = task;
    task.held.push(this);
    return this;
  }

  #wait(): Wait {
    return {
      what: this.name,
      queue: this.#queue,
      isReady: () => this.#owner === undefined,
      holders: () => (this.#owner === undefined ? [] : [this.#owner]),
    };
  }

  /** Releases the lock. */
  [Symbol.dispose](): void {
    const owner = this.#owner;
    if (owner === undefined) throw new DeadlockError(`${this.name} is released, but no task holds it`);
    release(this, owner);
    this.#owner = undefined;
    this.#queue.wake();
  }
}

/** A mutex whose holder must not wait. */
export class SpinLock extends Mutex {
  constructor(context: LockContext, kind: string, of = '') {
    super(context, kind, of, true);
  }
}

/** A lock for many readers or one writer. A waiting writer blocks new readers, as in the kernel's rwsem. */
export class RwSemaphore implements Lock {
  readonly kind: string;
  readonly name: string;
  /** False: a holder may wait. */
  readonly isSpin = false;
  readonly #context: LockContext;
  readonly #queue = new WaitQueue();
  readonly #point: string;
  readonly #readers: Task[] = [];
  #writer: Task | undefined;
  #waitingWriters = 0;

  constructor(context: LockContext, kind: string, of = '') {
    this.#context = context;
    this.kind = kind;
    this.name = of === '' ? kind : `${of} ${kind}`;
    this.#point = `before ${this.name}`;
  }

  /** Whether any task holds it, for reading or writing. */
  get isHeld(): boolean {
    return this.#writer !== undefined || this.#readers.length > 0;
  }

  /** Whether the running task holds it, either way. */
  get isMine(): boolean {
    const task = this.#context.executor.current;
    return this.#writer === task || this.#readers.includes(task);
  }

  /** Takes it for reading, waiting while a writer holds or awaits it. @returns disposing it releases the lock */
  *read(): Steps<Disposable> {
    yield this.#point;
    const task = this.#enter();
    const isFree = () => this.#writer === undefined && this.#waitingWriters === 0;
    while (!isFree()) yield this.#wait('read', isFree);
    this.#readers.push(task);
    task.held.push(this);
    return this.#guard(() => {
      this.#readers.splice(this.#readers.indexOf(task), 1);
      release(this, task);
    });
  }

  /** Takes it for writing, waiting until no other task holds it. @returns disposing it releases the lock */
  *write(): Steps<Disposable> {
    yield this.#point;
    const task = this.#enter();
    const isFree = () => this.#writer === undefined && this.#readers.length === 0;
    this.#waitingWriters++;
    try {
      while (!isFree()) yield this.#wait('write', isFree);
    } finally {
      this.#waitingWriters--;
    }
    this.#writer = task;
    task.held.push(this);
    return this.#guard(() => {
      this.#writer = undefined;
      release(this, task);
    });
  }

  #enter(): Task {
    const { executor, order } = this.#context;
    const task = executor.current;
    order.check(task, this);
    // A second read by the same task would deadlock if a writer came in between, so it is always refused.
    if (this.isMine) throw new DeadlockError(`${task.name} takes ${this.name}, which it already holds`);
    return task;
  }

  #guard(end: () => void): Disposable {
    return {
      [Symbol.dispose]: () => {
        end();
        this.#queue.wake();
      },
    };
  }

  #wait(how: string, isFree: () => boolean): Wait {
    return {
      what: `${this.name} (${how})`,
      queue: this.#queue,
      isReady: isFree,
      holders: () => (this.#writer === undefined ? this.#readers : [this.#writer]),
    };
  }
}

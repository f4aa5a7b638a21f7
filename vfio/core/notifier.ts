/** Notifier chains: the order of callbacks, and the rules inside them. After kernel/notifier.c. */

import { vfioError } from '../vfio-error.js';
import { type LockContext, Mutex, RwSemaphore } from './locks.js';
import { DeadlockError, maybeSteps, type Steps, type Task, WaitQueue } from './steps.js';

/** One listener: struct notifier_block. */
export interface NotifierBlock<D> {
  /** Name of the listener, for messages. */
  readonly name: string;
  /**
   * The callback. It may be a generator function of Steps, and must not register or unregister on the chain that calls
   * it. If it throws, the core warns and calls the next listener.
   */
  call(event: number, data: D): void;
}

/** Calls one listener; its failure does not stop the others. */
function* tell<D>(context: LockContext, block: NotifierBlock<D>, event: number, data: D): Steps<void> {
  try {
    yield* maybeSteps(block.call(event, data));
  } catch (error) {
    if (error instanceof DeadlockError) throw error;
    context.warn(`listener '${block.name}' failed: ${String(error)}`);
  }
}

const inCallback = 'not allowed inside a callback of the same chain: defer it';

/**
 * A chain that holds a semaphore around its callbacks: when unregister returns, no callback is running and none will
 * run. In return, callbacks must not take a lock that any caller holds while registering.
 */
export class BlockingNotifierChain<D> {
  readonly #name: string;
  readonly #context: LockContext;
  readonly #rwsem: RwSemaphore;
  readonly #blocks = new Set<NotifierBlock<D>>();

  /** @param of owner of the chain: `group 3` */
  constructor(context: LockContext, kind: string, of: string) {
    this.#name = `${of} ${kind}`;
    this.#context = context;
    this.#rwsem = new RwSemaphore(context, `${kind} rwsem`, of);
  }

  /** Listeners in the order of their registration. */
  get blocks(): readonly NotifierBlock<D>[] {
    return [...this.#blocks];
  }

  /** @throws SysError EEXIST if it is already registered; EDEADLK inside a callback of this chain */
  *register(block: NotifierBlock<D>): Steps<void> {
    if (this.isCallingMe) throw vfioError('notifier_chain_register', this.#name, 'EDEADLK', inCallback);
    using _held = yield* this.#rwsem.write();
    if (this.#blocks.has(block)) {
      throw vfioError('notifier_chain_register', this.#name, 'EEXIST', `${block.name} is already registered`);
    }
    this.#blocks.add(block);
  }

  /** @throws SysError ENOENT if it is not registered; EDEADLK inside a callback of this chain */
  *unregister(block: NotifierBlock<D>): Steps<void> {
    if (this.isCallingMe) throw vfioError('notifier_chain_unregister', this.#name, 'EDEADLK', inCallback);
    using _held = yield* this.#rwsem.write();
    if (!this.#blocks.has(block)) {
      throw vfioError('notifier_chain_unregister', this.#name, 'ENOENT', `${block.name} is not registered`);
    }
    this.#blocks.delete(block);
  }

  /** Calls one listener, as {@link call} would. The caller's own lock must exclude other calls and unregister. */
  *tell(block: NotifierBlock<D>, event: number, data: D): Steps<void> {
    yield* tell(this.#context, block, event, data);
  }

  /** Calls all listeners in the order of their registration. */
  *call(event: number, data: D): Steps<void> {
    using _held = yield* this.#rwsem.read();
    for (const block of this.#blocks) {
      yield `${this.#name}: before ${block.name}`;
      if (this.#blocks.has(block)) yield* tell(this.#context, block, event, data);
    }
  }

  /** Whether the running task is inside a callback of this chain. */
  get isCallingMe(): boolean {
    return this.#rwsem.isMine;
  }

  /** Removes a listener from inside a callback; the call in progress skips it. */
  drop(block: NotifierBlock<D>): void {
    this.#blocks.delete(block);
  }

  /** Removes all listeners without notifying them. */
  clear(): void {
    this.#blocks.clear();
  }
}

/**
 * A chain whose callbacks run without its lock, so that they may take a lock that a caller holds while registering.
 * Unregister waits for the callbacks that run at the time of the call.
 */
export class SrcuNotifierChain<D> {
  readonly #name: string;
  readonly #context: LockContext;
  readonly #mutex: Mutex;
  /** Tasks that are calling the chain, by the walk's number. */
  readonly #walks = new Map<number, Task>();
  readonly #walkEnded = new WaitQueue();
  #lastWalk = 0;
  readonly #blocks = new Set<NotifierBlock<D>>();

  constructor(context: LockContext, kind: string, of: string) {
    this.#name = `${of} ${kind}`;
    this.#context = context;
    this.#mutex = new Mutex(context, `${kind} mutex`, of);
  }

  get blocks(): readonly NotifierBlock<D>[] {
    return [...this.#blocks];
  }

  /** @throws SysError EEXIST if it is already registered */
  *register(block: NotifierBlock<D>): Steps<void> {
    using _held = yield* this.#mutex.acquire();
    if (this.#blocks.has(block)) {
      throw vfioError(
        'srcu_notifier_chain_register',
        this.#name,
        'EEXIST',
        `${block.name} is already registered`,
      );
    }
    this.#blocks.add(block);
  }

  /** @throws SysError ENOENT if it is not registered; EDEADLK inside a callback of this chain */
  *unregister(block: NotifierBlock<D>): Steps<void> {
    const call = 'srcu_notifier_chain_unregister';
    const me = this.#context.executor.current;
    if ([...this.#walks.values()].includes(me)) throw vfioError(call, this.#name, 'EDEADLK', inCallback);
    {
      using _held = yield* this.#mutex.acquire();
      if (!this.#blocks.has(block))
        throw vfioError(call, this.#name, 'ENOENT', `${block.name} is not registered`);
      this.#blocks.delete(block);
    }
    const before = this.#lastWalk;
    const isQuiet = () => [...this.#walks.keys()].every((walk) => walk > before);
    if (isQuiet()) return;
    yield {
      what: `callbacks of ${this.#name}`,
      queue: this.#walkEnded,
      isReady: isQuiet,
      holders: () => [...this.#walks.values()],
    };
  }

  *call(event: number, data: D): Steps<void> {
    if (this.#blocks.size === 0) return;
    const walk = ++this.#lastWalk;
    this.#walks.set(walk, this.#context.executor.current);
    try {
      for (const block of this.#blocks) {
        yield `${this.#name}: before ${block.name}`;
        yield* tell(this.#context, block, event, data);
      }
    } finally {
      this.#walks.delete(walk);
      this.#walkEnded.wake();
    }
  }
}

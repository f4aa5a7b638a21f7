/** Notifier chains, after kernel/notifier.c: who is told, in which order, and what may be done inside a callback. */

import { vfioError } from '../vfio-error.js';
import { type LockContext, Mutex, RwSemaphore } from './locks.js';
import { DeadlockError, maybeSteps, type Steps, type Task, WaitQueue } from './steps.js';

/** One listener: struct notifier_block. */
export interface NotifierBlock<D> {
  /** Who listens, for messages. */
  readonly name: string;
  /** May be a generator function of {@link Steps}. Must not register or unregister on the chain that calls it. */
  call(event: number, data: D): void;
}

/** A listener that fails keeps the others from nothing. */
function* tell<D>(context: LockContext, block: NotifierBlock<D>, event: number, data: D): Steps<void> {
  try {
    yield* maybeSteps(block.call(event, data));
  } catch (error) {
    if (error instanceof DeadlockError) throw error;
    context.warn(`listener '${block.name}' failed: ${String(error)}`);
  }
}

const inCallback = 'not from inside a callback of the same chain: do it later';

/**
 * A chain that holds a semaphore around its callbacks: when unregister returns, no callback runs and none will. The price:
 * callbacks must not take a lock that somebody holds while registering.
 */
export class BlockingNotifierChain<D> {
  readonly #name: string;
  readonly #context: LockContext;
  readonly #rwsem: RwSemaphore;
  readonly #blocks = new Set<NotifierBlock<D>>();

  /** @param of whose it is: `group 3` */
  constructor(context: LockContext, kind: string, of: string) {
    this.#name = `${of} ${kind}`;
    this.#context = context;
    this.#rwsem = new RwSemaphore(context, `${kind} rwsem`, of);
  }

  /** Listeners, first registered first. */
  get blocks(): readonly NotifierBlock<D>[] {
    return [...this.#blocks];
  }

  /** @throws SysError EEXIST if it is registered already; EDEADLK inside a callback of this chain */
  *register(block: NotifierBlock<D>): Steps<void> {
    if (this.isCallingMe) throw vfioError('notifier_chain_register', this.#name, 'EDEADLK', inCallback);
    using _held = yield* this.#rwsem.write();
    if (this.#blocks.has(block)) {
      throw vfioError('notifier_chain_register', this.#name, 'EEXIST', `${block.name} is registered already`);
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

  /** Tells one listener, as {@link call} would. Whoever replays to it holds off both chain and calls by a lock of its own. */
  *tell(block: NotifierBlock<D>, event: number, data: D): Steps<void> {
    yield* tell(this.#context, block, event, data);
  }

  /** Calls all listeners, first registered first. */
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

  /** Takes a listener off from inside a callback; the walk that is under way passes it over. */
  drop(block: NotifierBlock<D>): void {
    this.#blocks.delete(block);
  }

  /** Forgets all listeners without telling them. */
  clear(): void {
    this.#blocks.clear();
  }
}

/**
 * A chain whose callbacks run without its lock, so that they may take any lock their registrar holds while it registers.
 * Unregister returns when the callbacks that were running then have ended.
 */
export class SrcuNotifierChain<D> {
  readonly #name: string;
  readonly #context: LockContext;
  readonly #mutex: Mutex;
  /** Tasks inside a walk, with the walk's number. */
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

  /** @throws SysError EEXIST if it is registered already */
  *register(block: NotifierBlock<D>): Steps<void> {
    using _held = yield* this.#mutex.acquire();
    if (this.#blocks.has(block)) {
      throw vfioError(
        'srcu_notifier_chain_register',
        this.#name,
        'EEXIST',
        `${block.name} is registered already`,
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

import type { Lock, Task } from './steps.js';

/**
 * Records the order in which kinds of locks are taken, and reports the first contradiction: two tasks could then
 * deadlock, even if they have not so far. The kernel's lockdep does the same.
 */
export class LockOrder {
  readonly #warn: (text: string) => void;
  /** By kind of lock: the kinds that were taken while it was held. */
  readonly #inner = new Map<string, Set<string>>();

  constructor(warn: (text: string) => void) {
    this.#warn = warn;
  }

  /** Called before `task` takes `lock`. */
  check(task: Task, lock: Lock): void {
    for (const held of task.held) {
      if (held.isSpin)
        this.#warn(`${task.name} takes ${lock.name} while it holds the spin lock ${held.name}`);
      this.#add(task, held, lock);
    }
  }

  #add(task: Task, held: Lock, lock: Lock): void {
    const inner = this.#inner.get(held.kind) ?? new Set();
    if (inner.has(lock.kind)) return;
    if (held.kind === lock.kind || this.#isReachable(lock.kind, held.kind)) {
      this.#warn(
        `lock order: ${task.name} takes ${lock.name} while it holds ${held.name}, but ${held.kind} is also taken under ${lock.kind}`,
      );
    }
    inner.add(lock.kind);
    this.#inner.set(held.kind, inner);
  }

  #isReachable(from: string, to: string, seen = new Set<string>()): boolean {
    if (from === to) return true;
    if (seen.has(from)) return false;
    seen.add(from);
    for (const next of this.#inner.get(from) ?? []) if (this.#isReachable(next, to, seen)) return true;
    return false;
  }
}

import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';

/** Names of errno values. */
export type ErrnoName = keyof typeof errno;

/**
 * Makes the nth call of wrapped ports fail. Wrap everything first, run once to {@link count} the calls, then run again
 * with {@link failAt} for each of them.
 */
export class FaultInjector {
  /** Calls so far: `allocate`, `ops.openDevice` …, in order. */
  readonly calls: string[] = [];
  #failAt: number | undefined;
  #code: ErrnoName = 'ENOMEM';
  #isArmed = true;

  /** Number of calls seen so far. */
  get count(): number {
    return this.calls.length;
  }

  /** Clears the calls, and makes the nth one from now fail, counted from 0. */
  failAt(index: number, code: ErrnoName): void {
    this.calls.length = 0;
    this.#failAt = index;
    this.#code = code;
    this.#isArmed = true;
  }

  /** Runs `body` without failing or counting any call. */
  without<T>(body: () => T): T {
    const before = this.#isArmed;
    this.#isArmed = false;
    try {
      return body();
    } finally {
      this.#isArmed = before;
    }
  }

  /** Counts a call; for ports that are functions. @throws SysError if this is the call to fail */
  call(name: string): void {
    if (!this.#isArmed) return;
    const index = this.calls.length;
    this.calls.push(name);
    if (index !== this.#failAt) return;
    throw new SysError({
      call: name,
      target: 'fault injector',
      errno: errno[this.#code],
      hint: `call ${index} was made to fail`,
    });
  }

  /** Wraps a port: each of its methods, or of `methods`, can be made to fail before it does anything. */
  wrap<T extends object>(name: string, port: T, methods?: readonly (keyof T & string)[]): T {
    return new Proxy(port, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== 'function' || typeof key !== 'string') return value;
        if (methods !== undefined && !methods.includes(key as keyof T & string)) return value.bind(target);
        return (...args: unknown[]) => {
          this.call(`${name}.${key}`);
          return value.apply(target, args);
        };
      },
      set: (target, key, value) => Reflect.set(target, key, value, target),
    });
  }
}

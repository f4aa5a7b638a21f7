import { SysError } from '../../sys/error.js';
import type { Done } from './image.js';

/** Several operations that are one to their user: done when all of them are, with the first error. */
export class Joint {
  readonly #done: Done;
  #left = 1;
  #error: SysError | undefined;

  constructor(done: Done) {
    this.#done = done;
  }

  /** For one more operation, which is done when this is called. */
  part(): Done {
    this.#left++;
    return (error) => this.end(error);
  }

  /** To be called once, when all parts have begun, or with what keeps the others from it. */
  end(error?: SysError): void {
    this.#error ??= error;
    if (--this.#left === 0) this.#done(this.#error);
  }
}

/**
 * Does `step` for 0 to `count - 1`, each one once that before is done, up to the first error. Steps that are done at once do not
 * pile up on the stack.
 */
export function eachInTurn(count: number, step: (i: number, done: Done) => void, done: Done): void {
  let next = 0;
  let isLooping = false;
  let mayGoOn = true;
  const loop = (): void => {
    isLooping = true;
    while (mayGoOn) {
      if (next === count) {
        mayGoOn = false;
        done();
      } else {
        mayGoOn = false;
        step(next++, after);
      }
    }
    isLooping = false;
  };
  const after: Done = (error) => {
    if (error !== undefined) return done(error);
    mayGoOn = true;
    if (!isLooping) loop();
  };
  loop();
}

/** Lets one user in at a time, in the order in which they ask. */
export class Turns {
  #isTaken = false;
  #isLooping = false;
  readonly #waiting: ((leave: () => void) => void)[] = [];

  /** @param act is called now or later, and calls `leave` when it is done */
  take(act: (leave: () => void) => void): void {
    this.#waiting.push(act);
    this.#loop();
  }

  /** A user that leaves at once lets the next one in from here, not from its own depth of the stack. */
  #loop(): void {
    if (this.#isLooping) return;
    this.#isLooping = true;
    try {
      while (!this.#isTaken) {
        const act = this.#waiting.shift();
        if (act === undefined) return;
        this.#isTaken = true;
        act(() => {
          this.#isTaken = false;
          this.#loop();
        });
      }
    } finally {
      this.#isLooping = false;
    }
  }
}

/** An error to report. @throws anything else: a bug of ours */
export function sysError(error: unknown): SysError {
  if (error instanceof SysError) return error;
  throw error;
}

/** Reports an error that `act` throws. */
export function guarded(done: Done, act: () => void): void {
  try {
    act();
  } catch (error) {
    done(sysError(error));
  }
}

/** What is done next, unless there was an error. */
export const andThen =
  (done: Done, act: () => void): Done =>
  (error) =>
    error === undefined ? guarded(done, act) : done(error);

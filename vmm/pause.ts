import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Later } from './machine-calls.js';

/** Whether the vCPUs shall stop, and whether they have. Machine thread only. */
export class Pause {
  readonly #changed: (isPaused: boolean) => void;
  readonly #waiting: Later<void>[] = [];
  /** Each returns what settles its result. */
  readonly #works: (() => () => void)[] = [];
  /** Somebody has asked for it, and nobody to end it. */
  #isAsked = false;
  #isPaused = false;
  /** They stay where they are, whoever asks. */
  #isHeld = false;

  /** @param changed called when all vCPUs have stopped, and when they continue after that */
  constructor(changed: (isPaused: boolean) => void) {
    this.#changed = changed;
  }

  get isWanted(): boolean {
    return this.#isAsked || this.#isHeld || this.#works.length > 0;
  }

  /** Whether somebody has asked for it, and not for something else. */
  get isAsked(): boolean {
    return this.#isAsked;
  }

  /** Whether all vCPUs have stopped at an instruction boundary. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Asks the vCPUs to stop. The result settles when they have; undefined if they have already. */
  request(): Later<void> | undefined {
    this.#isAsked = true;
    if (this.#isPaused) return undefined;
    const later = new Later<void>();
    this.#waiting.push(later);
    return later;
  }

  /**
   * Calls `work` once all vCPUs have stopped, at once if they have already; they continue when it returns, unless somebody has asked
   * for a pause. The result settles after that, with what `work` returns or throws.
   */
  during<T>(work: () => T): Later<T> {
    const result = new Later<T>();
    const run = () => {
      try {
        const value = work();
        return () => result.resolve(value);
      } catch (error) {
        return () => result.reject(error);
      }
    };
    if (this.#isPaused) run()();
    else this.#works.push(run);
    return result;
  }

  /** As {@link during}, but the vCPUs stay at rest until {@link release}, also if somebody asks them to continue; not if `work` throws. */
  hold<T>(work: () => T): Later<T> {
    return this.during(() => {
      const value = work();
      this.#isHeld = true;
      return value;
    });
  }

  /** Ends {@link hold}: the vCPUs continue, unless somebody has asked for a pause. */
  release(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    if (!this.#isAsked) this.end();
  }

  /** All vCPUs have stopped. */
  complete(): void {
    this.#isPaused = true;
    this.#changed(true);
    for (const later of this.#waiting.splice(0)) later.resolve();
    const settle = this.#works.map((work) => work());
    this.#works.length = 0;
    if (!this.#isAsked && !this.#isHeld) this.end();
    for (const each of settle) each();
  }

  /** The vCPUs continue. Does nothing if they run. */
  end(): void {
    this.#isAsked = false;
    if (this.#isHeld) return;
    const wasPaused = this.#isPaused;
    this.#isPaused = false;
    for (const later of this.#waiting.splice(0)) later.reject(resumed());
    if (wasPaused) this.#changed(false);
  }
}

const resumed = (): SysError =>
  new SysError({
    call: 'pause',
    target: 'the machine',
    errno: errno.ECANCELED,
    hint: 'it was resumed before all vCPUs had stopped',
  });

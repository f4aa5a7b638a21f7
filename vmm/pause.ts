import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Later } from './machine-calls.js';

/** Whether the vCPUs shall stop, and whether they have. Machine thread only. */
export class Pause {
  readonly #changed: (isPaused: boolean) => void;
  readonly #waiting: Later<void>[] = [];
  #isWanted = false;
  #isPaused = false;

  /** @param changed called when all vCPUs have stopped, and when they continue after that */
  constructor(changed: (isPaused: boolean) => void) {
    this.#changed = changed;
  }

  get isWanted(): boolean {
    return this.#isWanted;
  }

  /** Whether all vCPUs have stopped at an instruction boundary. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Asks the vCPUs to stop. The result settles when they have; undefined if they have already. */
  request(): Later<void> | undefined {
    if (this.#isPaused) return undefined;
    this.#isWanted = true;
    const later = new Later<void>();
    this.#waiting.push(later);
    return later;
  }

  /** All vCPUs have stopped. */
  complete(): void {
    this.#isPaused = true;
    this.#changed(true);
    for (const later of this.#waiting.splice(0)) later.resolve();
  }

  /** The vCPUs continue. Does nothing if they run. */
  end(): void {
    const wasPaused = this.#isPaused;
    this.#isWanted = false;
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

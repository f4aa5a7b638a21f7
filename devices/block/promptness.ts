/** Bytes whose copy takes about as long as the rest of a system call. */
const COPY_BYTES = 16384;
/** Operations to leave to the kernel after one that was not prompt, at first and at most. */
const FIRST_DETOUR = 16;
const MOST_DETOUR = 1024;

/** How long a prompt operation may take: its own best time by a factor, and some milliseconds. */
export interface PromptLimit {
  readonly factor: number;
  readonly ms: number;
}

/**
 * Whether operations of a kind are done promptly, judged by those before: one that was not has the next ones go another way,
 * twice as many each time that the one that is tried afterwards was not prompt either.
 */
export class Promptness {
  readonly #limit: PromptLimit;
  /** Milliseconds of the quickest operation, without its bytes' share. */
  #best = Number.POSITIVE_INFINITY;
  #detour = FIRST_DETOUR;
  #left = 0;

  constructor(limit: PromptLimit) {
    this.#limit = limit;
  }

  /** Whether the next operation shall be tried: then {@link note} its time. */
  isExpected(): boolean {
    if (this.#left === 0) return true;
    this.#left--;
    return false;
  }

  /** @param ms that an operation on this many bytes has taken */
  note(ms: number, bytes: number): void {
    const scale = 1 + bytes / COPY_BYTES;
    this.#best = Math.min(this.#best, ms / scale);
    if (ms <= scale * (this.#best * this.#limit.factor + this.#limit.ms)) {
      this.#detour = FIRST_DETOUR;
      return;
    }
    this.#left = this.#detour;
    this.#detour = Math.min(2 * this.#detour, MOST_DETOUR);
  }
}

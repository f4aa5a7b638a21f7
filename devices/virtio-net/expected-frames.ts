/** Most occasions between two tries. */
const MOST_PATIENCE = 64;

/**
 * How many frames to read from a port that cannot say what it has (a tap), as a read that finds nothing throws in Node and
 * costs as much as several frames. When it is readable, as many as came the last time; then epoll is asked, which has to
 * be asked anyway. Now and then twice as many are tried, and the port is tried that was not said to be readable; the less
 * often, the more often in vain.
 */
export class ExpectedFrames {
  readonly #most: number;
  #expected = 1;
  #left = 0;
  /** Signals whose frames were as many as expected, since the last try. */
  #met = 0;
  #patience = 1;
  #isTry = false;
  /** Turns without a signal, since the last one that read nevertheless. */
  #turns = 0;
  #turnPatience = 1;
  #isUnasked = false;

  /** @param most frames that a turn reads */
  constructor(most: number) {
    this.#most = most;
  }

  /** Whether to read another frame. */
  get hasMore(): boolean {
    return this.#left > 0;
  }

  /** The port is readable. */
  signalled(): void {
    this.#left = this.#expected;
    this.#isUnasked = false;
  }

  /** A turn begins, of whatever cause. */
  turn(): void {
    if (this.#left > 0 || ++this.#turns < this.#turnPatience) return;
    this.#turns = 0;
    this.#left = this.#expected;
    this.#isUnasked = true;
  }

  /** The port was read. @param hadFrame false if it had nothing */
  read(hadFrame: boolean): void {
    if (this.#isUnasked) {
      this.#isUnasked = false;
      this.#turnPatience = hadFrame ? 1 : Math.min(2 * this.#turnPatience, MOST_PATIENCE);
      if (!hadFrame) {
        this.#left = 0;
        return;
      }
    }
    if (!hadFrame) {
      this.#expected = Math.max(1, this.#expected - this.#left);
      this.#left = 0;
      this.#patience = Math.min(2 * this.#patience, MOST_PATIENCE);
      this.#isTry = false;
      return;
    }
    if (--this.#left > 0) return;
    if (this.#isTry) this.#patience = 1;
    this.#isTry = ++this.#met >= this.#patience;
    if (!this.#isTry) return;
    this.#met = 0;
    this.#expected = Math.min(2 * this.#expected, this.#most);
  }

  /** What was expected to be there is not. */
  forget(): void {
    this.#left = 0;
  }
}

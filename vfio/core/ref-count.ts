/**
 * Reference count of one object. Once it is zero it stays zero: take a reference of an object that may be dying with
 * {@link getUnlessZero}. An unbalanced put is a bug of the caller, reported once.
 */
export class RefCount {
  readonly #name: string;
  readonly #warn: (text: string) => void;
  #count: number;

  constructor(name: string, initial: number, warn: (text: string) => void) {
    this.#name = name;
    this.#count = initial;
    this.#warn = warn;
  }

  get count(): number {
    return this.#count;
  }

  /** Starts counting at 1, when the object becomes visible. */
  start(): void {
    if (this.#count !== 0) this.#warn(`${this.#name}: counting started twice`);
    this.#count = 1;
  }

  /** Takes another reference; the caller must already hold one. */
  get(): void {
    if (this.#count === 0) this.#warn(`${this.#name}: a reference was taken after the last put`);
    else this.#count++;
  }

  /** Takes a reference unless the count is zero; false if it is. */
  getUnlessZero(): boolean {
    if (this.#count === 0) return false;
    this.#count++;
    return true;
  }

  /** Drops a reference; true if it was the last one, and the caller must now free the object. */
  put(): boolean {
    if (this.#count === 0) {
      this.#warn(`${this.#name}: more references were put than taken`);
      return false;
    }
    return --this.#count === 0;
  }
}

/** Allocates the lowest free number in O(log n). @see ida_alloc */
export class Numbers {
  readonly #used = new Set<number>();
  /** Freed numbers below {@link #next}: a binary heap, the lowest first. */
  readonly #free: number[] = [];
  /** This number and all above have never been allocated. */
  #next = 0;

  alloc(): number {
    const number = this.#free.length > 0 ? this.#takeLowest() : this.#next++;
    this.#used.add(number);
    return number;
  }

  /** Does nothing for a number that is not allocated. */
  free(number: number): void {
    if (!this.#used.delete(number)) return;
    const heap = this.#free;
    let at = heap.push(number) - 1;
    for (let parent = (at - 1) >> 1; at > 0 && this.#isLower(at, parent); parent = (at - 1) >> 1) {
      this.#swap(at, parent);
      at = parent;
    }
  }

  #takeLowest(): number {
    const heap = this.#free;
    this.#swap(0, heap.length - 1);
    const lowest = heap.pop() as number;
    for (let at = 0; ; ) {
      const [left, right] = [2 * at + 1, 2 * at + 2];
      const child = right < heap.length && this.#isLower(right, left) ? right : left;
      if (child >= heap.length || !this.#isLower(child, at)) return lowest;
      this.#swap(child, at);
      at = child;
    }
  }

  #isLower(a: number, b: number): boolean {
    return (this.#free[a] as number) < (this.#free[b] as number);
  }

  #swap(a: number, b: number): void {
    const heap = this.#free;
    [heap[a], heap[b]] = [heap[b] as number, heap[a] as number];
  }

  get count(): number {
    return this.#used.size;
  }
}

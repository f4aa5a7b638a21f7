/**
 * Counts references of one object. At zero it stays at zero: {@link getUnlessZero} is how to take a reference to an
 * object that may be dying, and a count below zero is a bug of the caller, told once.
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

  /** Begins to count, from 1: the object can be found from now on. */
  start(): void {
    if (this.#count !== 0) this.#warn(`${this.#name}: counting started twice`);
    this.#count = 1;
  }

  /** For a caller that holds a reference already. */
  get(): void {
    if (this.#count === 0) this.#warn(`${this.#name}: a reference was taken after the last one was put`);
    else this.#count++;
  }

  /** Takes a reference; false if there is none left, and then none is taken. */
  getUnlessZero(): boolean {
    if (this.#count === 0) return false;
    this.#count++;
    return true;
  }

  /** Gives one back; true if it was the last, and the caller now has to release the object. */
  put(): boolean {
    if (this.#count === 0) {
      this.#warn(`${this.#name}: more references were put than taken`);
      return false;
    }
    return --this.#count === 0;
  }
}

/** Hands out the lowest number that is free. @see ida_alloc */
export class Numbers {
  readonly #used = new Set<number>();
  #lowest = 0;

  alloc(): number {
    while (this.#used.has(this.#lowest)) this.#lowest++;
    this.#used.add(this.#lowest);
    return this.#lowest;
  }

  free(number: number): void {
    this.#used.delete(number);
    if (number < this.#lowest) this.#lowest = number;
  }

  get count(): number {
    return this.#used.size;
  }
}

/**
 * Owns what was opened, and releases it last in, first out. A failure to release one thing never keeps the
 * others open: the first failure is thrown after all were released, the rest become its `suppressed` list.
 */
export class Scope implements Disposable {
  #owned: Disposable[] = [];

  /** Takes ownership; returns the same object, so that opening and owning fit on one line. */
  own<T extends Disposable>(resource: T): T {
    this.#owned.push(resource);
    return resource;
  }

  /** Runs `release` when the scope ends. */
  defer(release: () => void): void {
    this.#owned.push({ [Symbol.dispose]: release });
  }

  /** Hands everything owned so far to a new scope: used at the end of a function that succeeded. */
  move(): Scope {
    const next = new Scope();
    next.#owned = this.#owned;
    this.#owned = [];
    return next;
  }

  [Symbol.dispose](): void {
    const failures: unknown[] = [];
    for (let resource = this.#owned.pop(); resource !== undefined; resource = this.#owned.pop()) {
      try {
        resource[Symbol.dispose]();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length === 0) return;
    const [first, ...rest] = failures;
    if (first instanceof Error && rest.length > 0) Object.assign(first, { suppressed: rest });
    throw first;
  }
}

/** A {@link Disposable} from a function that runs once, however often it is disposed. */
export function disposable(release: () => void): Disposable {
  let pending = true;
  return {
    [Symbol.dispose]() {
      if (!pending) return;
      pending = false;
      release();
    },
  };
}

/**
 * Owns resources and releases them in reverse order. A failed release does not stop the others: dispose throws the
 * first failure at the end, with the others as its `suppressed` list.
 */
export class Scope implements Disposable {
  #owned: Disposable[] = [];

  /** Takes ownership and returns the resource. */
  own<T extends Disposable>(resource: T): T {
    this.#owned.push(resource);
    return resource;
  }

  /** Runs `release` when the scope is disposed. */
  defer(release: () => void): void {
    this.#owned.push({ [Symbol.dispose]: release });
  }

  /** Moves everything owned so far to a new scope. Call it at the end of a constructor-like function that succeeded. */
  move(): Scope {
    const next = new Scope();
    next.#owned = this.#owned;
    this.#owned = [];
    return next;
  }

  /** Releases what it owns in reverse order. @throws the first failure, after everything is released */
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

/** A {@link Disposable} that runs `release` once, however often it is disposed. */
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

/**
 * What failed first. `using` wraps it in a SuppressedError, without a message, when its clean-up fails too; here the
 * failures of the clean-up become its `suppressed` list, as {@link Scope} does it.
 */
export function firstFailure(error: unknown): unknown {
  const later: unknown[] = [];
  let first = error;
  while (first instanceof Error && first.name === 'SuppressedError' && 'suppressed' in first) {
    later.unshift((first as SuppressedError).error);
    first = first.suppressed;
  }
  if (first instanceof Error && later.length > 0) Object.assign(first, { suppressed: later });
  return first;
}

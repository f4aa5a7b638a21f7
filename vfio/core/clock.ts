/** Time as the core waits for it; tests inject one that they turn themselves. */
export interface Clock {
  /** Runs `fire` once after `ms` milliseconds; disposing the result calls it off. */
  after(ms: number, fire: () => void): Disposable;
}

export const systemClock: Clock = {
  after(ms, fire) {
    const timer = setTimeout(fire, ms);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

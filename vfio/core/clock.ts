/** The core's time source; tests inject one that they advance themselves. */
export interface Clock {
  /** Calls `fire` once after `ms` milliseconds; disposing the result cancels it. */
  after(ms: number, fire: () => void): Disposable;
}

export const systemClock: Clock = {
  after(ms, fire) {
    const timer = setTimeout(fire, ms);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

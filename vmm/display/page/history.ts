import type { Series } from './plot.js';

/** Counts per second, by name, of the last two minutes. */
export class History {
  static readonly samples = 121;
  readonly #rates = new Map<string, number[]>();
  #counts: Readonly<Record<string, number>> = {};
  #at: number | undefined;

  /** Adds a reading. A restarted machine counts from 0. @param at milliseconds */
  add(at: number, counts: Readonly<Record<string, number>>): void {
    const last = this.#at;
    const seconds = last === undefined ? 0 : (at - last) / 1000;
    for (const [name, count] of Object.entries(counts)) {
      const before = this.#counts[name] ?? 0;
      const more = count < before ? count : count - before;
      const rates = this.#rates.get(name) ?? [];
      this.#rates.set(name, rates);
      if (seconds > 0) rates.push(more / seconds);
      if (rates.length > History.samples) rates.shift();
    }
    this.#counts = counts;
    this.#at = at;
  }

  /** By name. */
  get series(): readonly Series[] {
    return [...this.#rates]
      .map(([name, values]) => ({ name, values }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }
}

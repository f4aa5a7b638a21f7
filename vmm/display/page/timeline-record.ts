import { latest, type TimelinePart } from './server.js';

/** The machine's timeline, of which only what is new is asked for. */
export class TimelineRecord {
  events: TimelinePart['events'] = [];
  /** How many are missing between them. */
  dropped = 0;
  #restarts = 0;

  /** A machine that restarts begins another timeline, and one that is too long is cut: both are read whole. */
  async update(restarts: number): Promise<void> {
    const from = restarts === this.#restarts ? this.events.length : 0;
    const next = await latest('timeline', `?from=${from}`);
    if (next === undefined) return;
    const isCut = from > 0 && next.dropped !== this.dropped;
    const whole = isCut ? await latest('timeline') : next;
    if (whole === undefined) return;
    this.events = isCut ? whole.events : [...this.events.slice(0, from), ...whole.events];
    this.dropped = whole.dropped;
    this.#restarts = restarts;
  }
}

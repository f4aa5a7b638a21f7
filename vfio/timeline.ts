/**
 * An ordered record of VFIO's operations and their causes: VM association, notifications, opens, maps, interrupts. It
 * subscribes to `trace.vfio`; without a timeline nothing is recorded, at no cost.
 */
import { trace, type VfioEvent } from '../sys/trace.js';
import { plain, toChromeTrace } from './chrome-trace.js';

/** One event of the record. */
export interface TimelineEvent {
  /** Milliseconds since the timeline started. */
  readonly at: number;
  /** The operation: `register`, `set_kvm`, `map_dma`. */
  readonly what: string;
  /** Number of the event within its core; 0 if it has none. */
  readonly seq: number;
  /** {@link seq} of the event that caused this one; 0 for none. */
  readonly cause: number;
  /** Name of the task that published it; empty if it has none. */
  readonly task: string;
  /** The event's other fields by name: device, group, IOVA. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** Records events of this thread from {@link Timeline.start} until it is disposed. Printing works after that, too. */
export class Timeline implements Disposable {
  /** The record, oldest first. */
  readonly events: TimelineEvent[] = [];
  /** Events left out of the middle of the record, because there were more than it may hold. */
  dropped = 0;
  readonly #now: () => number;
  readonly #begun: number;
  readonly #most: number;

  private constructor(now: () => number, most: number) {
    this.#now = now;
    this.#begun = now();
    this.#most = most;
  }

  /**
   * Subscribes to `trace.vfio` of this thread.
   * @param now milliseconds of any clock; tests pass their own
   * @param most events that it holds: the first half of them, and the latest. Default: any number
   */
  static start(now: () => number = () => performance.now(), most = Number.POSITIVE_INFINITY): Timeline {
    const timeline = new Timeline(now, most);
    trace.vfio.subscribe(timeline.#record);
    return timeline;
  }

  readonly #record = ({ what, seq = 0, cause = 0, task = '', ...details }: VfioEvent): void => {
    this.events.push({ at: this.#now() - this.#begun, what, seq, cause, task, details });
    if (this.events.length <= this.#most) return;
    // A quarter at once: to remove one of an array for each event would cost more than the event.
    const half = this.#most >> 1;
    const removed = Math.max(this.#most >> 2, 1);
    this.events.splice(half, removed);
    this.dropped += removed;
  };

  /** One line per event, indented below its cause. */
  toText(): string {
    const depth = new Map<number, number>([[0, -1]]);
    return this.events
      .map(({ at, what, seq, cause, task, details }) => {
        const level = (depth.get(cause) ?? -1) + 1;
        if (seq > 0) depth.set(seq, level);
        const rest = Object.entries(details).map(([name, value]) => `${name}=${show(value)}`);
        const who = task === '' ? [] : [`[${task}]`];
        return [`${at.toFixed(3).padStart(9)}`, `${'  '.repeat(level)}${what}`, ...rest, ...who].join(' ');
      })
      .join('\n');
  }

  /** The events as a JSON array, with bigints as hexadecimal strings. */
  toJson(): string {
    return JSON.stringify(this.events, plain, 1);
  }

  /** As the function {@link toChromeTrace}. */
  toChromeTrace(): string {
    return toChromeTrace(this.events);
  }

  /** Unsubscribes; the events remain. */
  [Symbol.dispose](): void {
    trace.vfio.unsubscribe(this.#record);
  }
}

function show(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value, plain) ?? 'undefined');
}

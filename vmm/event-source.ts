import { monotonicMs } from '../sys/monotonic.js';
import type { EventFlow } from './event-flow.js';
import type { MachineEvent } from './protocol.js';

/** Most reports of guest misuse in a run: a guest can cause a million of them per second. */
const MOST_MISUSES = 20;
/** Steps that a guest can cause at once, and then per second: drivers that load, bind and unbind cause fewer. */
export const MOST_STEPS = 1000;
const STEPS_PER_SECOND = 10;
/** How long a traced machine waits for a reader before it drops events. */
const READER_MS = 1000;
const WAIT_MS = 20;

/** Numbers of events dropped, by what they were: `steps`, `traceEvents`. */
export type DroppedEvents = Readonly<Record<string, number>>;

/** What an {@link EventSource} sends through, and what keeps it from waiting. */
export interface EventSourcePorts {
  readonly flow: EventFlow;
  readonly post: (event: MachineEvent) => void;
  /** Whether the thread has something to do that cannot wait: a request to stop. */
  readonly isUrgent: () => boolean;
}

/**
 * Sends the machine thread's events to the main thread. What a guest can cause without end has a limit here, and what is
 * beyond it is counted for the report.
 */
export class EventSource {
  readonly #ports: EventSourcePorts;
  readonly #dropped = new Map<string, number>();
  #isGuestRunning = false;
  #misuses = 0;
  #steps = MOST_STEPS;
  #refilledAt = 0;
  /** The reader does not read: events are dropped without another wait until it does. */
  #isStalled = false;

  constructor(ports: EventSourcePorts) {
    this.#ports = ports;
  }

  /** Begins or ends the time in which steps may be the guest's doing. */
  set isGuestRunning(value: boolean) {
    this.#isGuestRunning = value;
    this.#refilledAt = monotonicMs();
  }

  /** What has been dropped so far; without the kinds of which nothing was. */
  get dropped(): DroppedEvents {
    return Object.fromEntries(this.#dropped);
  }

  /** Counts a record that its maker dropped. */
  drop(what: string): void {
    this.#dropped.set(what, (this.#dropped.get(what) ?? 0) + 1);
  }

  /** Sends an event that is never dropped. */
  emit(event: MachineEvent): void {
    this.#ports.flow.sending(event);
    this.#ports.post(event);
  }

  step(text: string, level: 'info' | 'warn' = 'info'): void {
    if (!this.#mayStep()) {
      this.drop('steps');
      return;
    }
    this.#emitStep(text, level);
  }

  guestMisuse(device: string, text: string): void {
    if (++this.#misuses > MOST_MISUSES) {
      this.drop('guestMisuses');
      return;
    }
    const isLast = this.#misuses === MOST_MISUSES;
    const more = isLast ? ' (no more of these will be shown; see --trace guestMisuse)' : '';
    this.#emitStep(`guest misuse: ${device}: ${text}${more}`, 'warn');
  }

  /** Waits for a slow reader, so that it gets every event; drops events for one that does not read. */
  trace(channel: string, text: string): void {
    if (!this.#awaitReader()) this.drop('traceEvents');
    else this.emit({ kind: 'trace', channel, text });
  }

  #emitStep(text: string, level: 'info' | 'warn' = 'info'): void {
    if (!this.#ports.flow.hasRoom) this.drop('steps');
    else this.emit({ kind: 'step', text, at: monotonicMs(), level });
  }

  #mayStep(): boolean {
    if (!this.#isGuestRunning) return true;
    const now = monotonicMs();
    const earned = Math.floor(((now - this.#refilledAt) * STEPS_PER_SECOND) / 1000);
    if (earned > 0) {
      this.#steps = Math.min(MOST_STEPS, this.#steps + earned);
      this.#refilledAt = now;
    }
    if (this.#steps === 0) return false;
    this.#steps--;
    return true;
  }

  #awaitReader(): boolean {
    const { flow, isUrgent } = this.#ports;
    if (flow.hasRoom) {
      this.#isStalled = false;
      return true;
    }
    const end = monotonicMs() + READER_MS;
    while (!this.#isStalled && !isUrgent()) {
      if (flow.awaitRoom(WAIT_MS)) return true;
      this.#isStalled = monotonicMs() > end;
    }
    return false;
  }
}

/**
 * How much of the machine thread's events the main thread has not handled yet. A guest can cause events faster than
 * anybody reads them, so their number is bounded here: output of the serial port waits in the guest's UART, other events
 * are dropped and counted.
 *
 *   Int32 [0] bytes of serial output, [1] bytes of other events that wait
 */
import type { MachineEvent } from './protocol.js';

export type EventFlowBuffer = SharedArrayBuffer;

export const createEventFlow = (): EventFlowBuffer => new SharedArrayBuffer(8);

const SERIAL = 0;
const OTHERS = 1;

/** Serial output that waits for its reader at most, in bytes. */
export const MOST_SERIAL_BYTES = 256 << 10;
/** Other events that wait for their reader at most, in bytes. */
export const MOST_EVENT_BYTES = 4 << 20;
/** What an event takes in addition to its text. */
const EVENT_BYTES = 64;

interface Cost {
  readonly word: typeof SERIAL | typeof OTHERS;
  readonly bytes: number;
}

/** undefined for events whose number no guest decides. */
function costOf(event: MachineEvent): Cost | undefined {
  switch (event.kind) {
    case 'serial':
      return { word: SERIAL, bytes: EVENT_BYTES + event.bytes.length };
    case 'step':
    case 'trace':
      return { word: OTHERS, bytes: EVENT_BYTES + event.text.length };
    default:
      return undefined;
  }
}

/** The machine thread's end. */
export class EventFlow {
  readonly #words: Int32Array;

  constructor(buffer: EventFlowBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Whether the serial port may send more; if not, {@link EventReceipts} sends `drained` once it may. */
  get hasSerialRoom(): boolean {
    return Atomics.load(this.#words, SERIAL) < MOST_SERIAL_BYTES;
  }

  /** Whether another step or trace event may be sent. */
  get hasRoom(): boolean {
    return Atomics.load(this.#words, OTHERS) < MOST_EVENT_BYTES;
  }

  /** Waits for {@link hasRoom}. Returns false at the timeout. */
  awaitRoom(timeoutMs: number): boolean {
    const seen = Atomics.load(this.#words, OTHERS);
    if (seen >= MOST_EVENT_BYTES) Atomics.wait(this.#words, OTHERS, seen, timeoutMs);
    return this.hasRoom;
  }

  /** Call before an event is sent. */
  sending(event: MachineEvent): void {
    const cost = costOf(event);
    if (cost !== undefined) Atomics.add(this.#words, cost.word, cost.bytes);
  }
}

/** The main thread's end. */
export class EventReceipts {
  readonly #words: Int32Array;
  readonly #drained: () => void;

  /** @param drained called when the serial port may send again */
  constructor(buffer: EventFlowBuffer, drained: () => void) {
    this.#words = new Int32Array(buffer);
    this.#drained = drained;
  }

  /** Call once the event's reader is done with it. */
  handled(event: MachineEvent): void {
    const cost = costOf(event);
    if (cost === undefined) return;
    const before = Atomics.sub(this.#words, cost.word, cost.bytes);
    if (cost.word === OTHERS) Atomics.notify(this.#words, OTHERS);
    else if (before >= MOST_SERIAL_BYTES && before - cost.bytes < MOST_SERIAL_BYTES) this.#drained();
  }
}

import {
  readTransportCounters,
  type TransportShape,
  TransportState,
  type TransportStateBuffer,
} from '../virtio/transport-state.js';
import { QUEUE_COUNT } from './spec.js';

const COUNTERS = [
  'reads',
  'readBytes',
  'writes',
  'writtenBytes',
  'flushes',
  'discards',
  'errors',
  'doorbells',
  'interrupts',
] as const;
type Counter = (typeof COUNTERS)[number];

/** What the registers and the queues share. */
export const SHAPE: TransportShape<Counter> = { queues: QUEUE_COUNT, counters: COUNTERS };

/**
 * Statistics of a disk since it was created. Errors are requests that failed on the host, or that asked for what the disk
 * does not have; discards include requests to write zeroes; doorbells in quick succession count as one.
 * @useDeclaredType
 */
export type VirtioBlkCounters = Readonly<Record<Counter, number>>;

/** Reads the counters, in any thread. Each one is exact, but they are not read at the same instant. */
export const readDiskCounters = (buffer: TransportStateBuffer): VirtioBlkCounters =>
  readTransportCounters(buffer, SHAPE);

/** One side's view of what the registers and the queue of a disk share. */
export class SharedState extends TransportState<Counter> {
  constructor(buffer: TransportStateBuffer) {
    super(buffer, SHAPE);
  }
}

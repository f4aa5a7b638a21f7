import {
  readTransportCounters,
  type TransportShape,
  type TransportStateBuffer,
} from '../virtio/transport-state.js';
import { QUEUE_COUNT } from './spec.js';

const COUNTERS = ['packets', 'events', 'droppedPackets', 'statusEvents', 'doorbells', 'interrupts'] as const;
export type InputCounter = (typeof COUNTERS)[number];

/** What the registers and the doorbell task share. */
export const SHAPE: TransportShape<InputCounter> = { queues: QUEUE_COUNT, counters: COUNTERS, threads: 2 };

/**
 * Statistics of an input device since it was created. Packets and events are those that the driver has got, without a packet's
 * SYN_REPORT; dropped packets those for which it had no buffers, or was not there; status events those that it has sent, as for a
 * keyboard's lights.
 * @useDeclaredType
 */
export type VirtioInputCounters = Readonly<Record<InputCounter, number>>;

/** Reads the counters, in any thread. Each one is exact, but they are not read at the same instant. */
export const readInputCounters = (buffer: TransportStateBuffer): VirtioInputCounters =>
  readTransportCounters(buffer, SHAPE);

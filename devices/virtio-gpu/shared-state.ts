import {
  readTransportCounters,
  type TransportShape,
  type TransportStateBuffer,
} from '../virtio/transport-state.js';
import { QUEUE_COUNT } from './spec.js';

const COUNTERS = [
  'commands',
  'errors',
  'transfers',
  'transferredBytes',
  'flushes',
  'cursorMoves',
  'doorbells',
  'interrupts',
] as const;
export type GpuCounter = (typeof COUNTERS)[number];

/** What the registers and the doorbell task share. */
export const SHAPE: TransportShape<GpuCounter> = { queues: QUEUE_COUNT, counters: COUNTERS, threads: 2 };

/**
 * Statistics of a card since it was created. Commands are those of both queues; errors the commands that got an error, or could get no
 * response; transfers the pictures, or parts of them, that were copied from guest memory.
 * @useDeclaredType
 */
export type VirtioGpuCounters = Readonly<Record<GpuCounter, number>>;

/** Reads the counters, in any thread. Each one is exact, but they are not read at the same instant. */
export const readGpuCounters = (buffer: TransportStateBuffer): VirtioGpuCounters =>
  readTransportCounters(buffer, SHAPE);

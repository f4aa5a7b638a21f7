import {
  readTransportCounters,
  type TransportShape,
  TransportState,
  type TransportStateBuffer,
} from '../virtio/transport-state.js';
import { queueCountOf } from './queue-layout.js';
import { VIRTIO_NET_S_LINK_UP } from './spec.js';

const COUNTERS = [
  'txPackets',
  'txBytes',
  'txDropped',
  'rxPackets',
  'rxBytes',
  'rxDropped',
  'doorbells',
  'interrupts',
  'vhostQueues',
] as const;
type Counter = (typeof COUNTERS)[number];

/** What the registers and the queues share, of a device with this many queue pairs. Each pair has an event thread. */
export const shapeOf = (pairs: number): TransportShape<Counter> => ({
  queues: queueCountOf(pairs),
  counters: COUNTERS,
  threads: pairs,
});

/**
 * Statistics of a device since it was created. Packets and bytes count Ethernet frames; drops are frames that the port
 * refused, or that fit no buffer; doorbells in quick succession count as one. `vhostQueues` is how often the kernel
 * (vhost-net) has been given a queue: what it moves, hears and signals from then on is in no other counter.
 * @useDeclaredType
 */
export type VirtioNetCounters = Readonly<Record<Counter, number>>;

/**
 * Reads the counters, in any thread. Each one is exact, but they are not read at the same instant.
 * @param pairs queue pairs of the device
 */
export const readCounters = (buffer: TransportStateBuffer, pairs = 1): VirtioNetCounters =>
  readTransportCounters(buffer, shapeOf(pairs));

/** One side's view of what the registers and the queues of a network device share. */
export class SharedState extends TransportState<Counter> {
  /** @param pair the one whose thread this side is */
  constructor(buffer: TransportStateBuffer, pairs = 1, pair = 0) {
    super(buffer, shapeOf(pairs), pair);
  }

  get isLinkUp(): boolean {
    return this.flags === VIRTIO_NET_S_LINK_UP;
  }

  /** Changes the link status. */
  setLink(isUp: boolean): void {
    this.setFlags(isUp ? VIRTIO_NET_S_LINK_UP : 0);
  }
}

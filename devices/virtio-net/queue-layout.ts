/** Which queue of a network device is what: pairs of a receive and a transmit queue, and the control queue. 5.1.2 */
import { VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ } from './spec.js';

/** Most queue pairs of a device. Each has a thread, and three MSI-X vectors with an ioeventfd or irqfd each are its share. */
export const MOST_PAIRS = 16;

export const receiveQueueOf = (pair: number): number => 2 * pair;
export const transmitQueueOf = (pair: number): number => 2 * pair + 1;
export const isReceiveQueue = (index: number): boolean => index % 2 === 0;

/** Queues of a device with this many pairs. One of a single pair has no control queue. */
export const queueCountOf = (pairs: number): number => (pairs === 1 ? 2 : 2 * pairs + 1);

/** The pairs that a driver with these features can use. */
export const usablePairs = (features: bigint, pairs: number): number =>
  (features & VIRTIO_NET_F_MQ) === 0n ? 1 : pairs;

/** The control queue's index, behind the usable pairs; undefined if the driver has not accepted it. */
export const controlQueueOf = (features: bigint, pairs: number): number | undefined =>
  (features & VIRTIO_NET_F_CTRL_VQ) === 0n ? undefined : 2 * usablePairs(features, pairs);

/** The pair of a queue; undefined for the control queue, and for one that the features leave without use. */
export function pairOf(index: number, features: bigint, pairs: number): number | undefined {
  const pair = Math.floor(index / 2);
  return pair < usablePairs(features, pairs) ? pair : undefined;
}

/** Features of a network device beyond its queues: what is offered, and what a driver's choice means. */
import {
  offloadsOf as neededOffloads,
  TUN_F_CSUM,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUN_F_USO,
  TUN_F_USO4,
  TUN_F_USO6,
} from '../net/offloads.js';
import { byteOf } from './chain-bytes.js';
import {
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_USO4,
  VIRTIO_NET_F_GUEST_USO6,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_USO,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
} from './spec.js';

/** What the driver has accepted. Sets of offloads are `TUN_F_` bits. */
export interface Negotiated {
  /** Offloads that the device takes over from the guest. */
  readonly host: number;
  /** Offloads that the guest takes over from the device. */
  readonly guest: number;
  /** Whether a received frame may be spread over several chains (VIRTIO_NET_F_MRG_RXBUF). */
  readonly hasMergeable: boolean;
}

export const NOTHING_NEGOTIATED: Negotiated = { host: 0, guest: 0, hasMergeable: false };

/** Longest frame with segmentation: an IP packet of 65535 bytes with an Ethernet header and a VLAN tag. */
export const MOST_SEGMENTED_BYTES = 65535 + 18;
const SEGMENTATION = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO;

const HOST: readonly (readonly [bigint, number])[] = [
  [VIRTIO_NET_F_CSUM, TUN_F_CSUM],
  [VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4],
  [VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6],
  [VIRTIO_NET_F_HOST_USO, TUN_F_USO],
];
const GUEST: readonly (readonly [bigint, number])[] = [
  [VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM],
  [VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4],
  [VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6],
  [VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4],
  [VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6],
];

/** Each feature with the one that it requires. 5.1.3.1 */
export const FEATURE_REQUIREMENTS: readonly (readonly [bigint, bigint])[] = [
  [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ],
];

/** The features of a port's offloads. */
export function offloadFeatures(offloads: number): bigint {
  const has = ([, needed]: readonly [bigint, number]) => (offloads & needed) === needed;
  return [...HOST, ...GUEST].filter(has).reduce((bits, [feature]) => bits | feature, 0n);
}

const offloadsOf = (features: bigint, table: readonly (readonly [bigint, number])[]): number =>
  table.reduce((set, [feature, offload]) => ((features & feature) === 0n ? set : set | offload), 0);

export function negotiated(features: bigint): Negotiated {
  const guest = offloadsOf(features, GUEST);
  return {
    host: offloadsOf(features, HOST),
    // A port gives segments of both IP versions or of none.
    guest: (guest & TUN_F_USO) === TUN_F_USO ? guest : guest & ~TUN_F_USO,
    hasMergeable: (features & VIRTIO_NET_F_MRG_RXBUF) !== 0n,
  };
}

/**
 * Whether a frame with a header needs no more than these offloads, and is no longer than they allow.
 * @param parts with the header
 * @param bytes of the frame without it
 */
export function isWithin(
  parts: readonly Uint8Array[],
  bytes: number,
  offloads: number,
  maxFrame: number,
): boolean {
  const gsoType = byteOf(parts, 1);
  if ((neededOffloads(byteOf(parts, 0), gsoType) & ~offloads) !== 0) return false;
  return bytes <= (gsoType === 0 ? maxFrame : longestFrame(offloads, maxFrame));
}

/** Longest frame in bytes with these offloads. @param maxFrame longest one without segmentation */
export const longestFrame = (offloads: number, maxFrame: number): number =>
  (offloads & SEGMENTATION) === 0 ? maxFrame : MOST_SEGMENTED_BYTES;

import { littleEndian } from '../pci/config-space.js';
import { TRANSPORT_FEATURES } from '../virtio/spec.js';
import type { SharedState } from './shared-state.js';
import {
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
  VIRTIO_NET_S_LINK_UP,
} from './spec.js';

/** The features of every device, to which those of its queues and of its port's offloads are added. */
export const BASE_FEATURES: bigint =
  VIRTIO_NET_F_MTU | VIRTIO_NET_F_MAC | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS | TRANSPORT_FEATURES;

/** Those of a device with several queue pairs, and of one with a single pair. */
export const queueFeatures = (pairs: number): bigint =>
  pairs === 1 ? 0n : VIRTIO_NET_F_MQ | VIRTIO_NET_F_CTRL_VQ;

// struct virtio_net_config, 5.1.4
const CONFIG_BYTES = 12;
/** Length of a MAC address, which begins the structure. */
export const MAC_BYTES = 6;
const STATUS_AT = 6;
const MAX_VIRTQUEUE_PAIRS_AT = 8;
const MTU_AT = 10;

/** Device configuration structure: read-only, because no offered feature allows the driver to write it. */
export class NetConfig {
  readonly #bytes = new Uint8Array(CONFIG_BYTES);
  readonly #state: SharedState;

  /** @param mac 6 bytes */
  constructor(mac: Uint8Array, mtu: number, state: SharedState, pairs: number) {
    this.#bytes.set(mac);
    this.#bytes[MAX_VIRTQUEUE_PAIRS_AT] = pairs;
    this.#bytes[MTU_AT] = mtu & 0xff;
    this.#bytes[MTU_AT + 1] = mtu >>> 8;
    this.#state = state;
  }

  /** 6 bytes. */
  get mac(): Uint8Array {
    return this.#bytes.slice(0, MAC_BYTES);
  }

  set mac(mac: Uint8Array) {
    this.#bytes.set(mac);
  }

  /** Value of 1, 2 or 4 bytes; all-ones past the structure. */
  read(offset: number, bytes: number): number {
    this.#bytes[STATUS_AT] = this.#state.isLinkUp ? VIRTIO_NET_S_LINK_UP : 0;
    return littleEndian(this.#bytes, offset, bytes);
  }
}

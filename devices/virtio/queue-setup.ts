/** A virtqueue's setup. Addresses are IOVAs as numbers; those above 2^53 are not exact, but are never mapped. */
export interface QueueSetup {
  readonly index: number;
  /** Descriptors, a power of two. */
  readonly size: number;
  /** queue_desc, a multiple of 16. */
  readonly desc: number;
  /** queue_driver (available ring), a multiple of 2. */
  readonly driver: number;
  /** queue_device (used ring), a multiple of 4. */
  readonly device: number;
  /** Whether VIRTIO_F_INDIRECT_DESC has been negotiated. */
  readonly hasIndirect: boolean;
  /** Whether VIRTIO_F_EVENT_IDX has been negotiated. */
  readonly hasEventIdx: boolean;
}

/** Constants of block devices in the virtio 1.2 specification and linux/virtio_blk.h, under the same names. */

// Feature bits, 5.2.3
export const VIRTIO_BLK_F_SEG_MAX = 1n << 2n;
export const VIRTIO_BLK_F_RO = 1n << 5n;
export const VIRTIO_BLK_F_BLK_SIZE = 1n << 6n;
export const VIRTIO_BLK_F_FLUSH = 1n << 9n;
export const VIRTIO_BLK_F_TOPOLOGY = 1n << 10n;
export const VIRTIO_BLK_F_DISCARD = 1n << 13n;
export const VIRTIO_BLK_F_WRITE_ZEROES = 1n << 14n;

// Requests, 5.2.6
export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_FLUSH = 4;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1;
export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;
export const VIRTIO_BLK_ID_BYTES = 20;

/** type, reserved and sector, before a request's data. */
export const BLK_HEADER_BYTES = 16;
/** sector, num_sectors and flags of struct virtio_blk_discard_write_zeroes. */
export const BLK_SEGMENT_BYTES = 16;

export const REQUESTQ = 0;
export const QUEUE_COUNT = 1;
/** Most buffers of data in a request: the queue's descriptors without those of header and status. */
export const SEG_MAX = 254;
/** Most ranges of one discard or write zeroes request, and most sectors of each. */
export const MOST_RANGES = 32;
export const MOST_RANGE_SECTORS = (1 << 22) - 8;
/** Longest chain in bytes. What stock drivers send is far below. */
export const MOST_CHAIN_BYTES = 128 << 20;
/** The same where the device reaches the memory by messages only, and copies it. */
export const MOST_REMOTE_CHAIN_BYTES = 16 << 20;

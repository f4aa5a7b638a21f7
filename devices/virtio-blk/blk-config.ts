import { littleEndian } from '../pci/config-space.js';
import { TRANSPORT_FEATURES } from '../virtio/spec.js';
import type { DiskShape } from './messages.js';
import {
  MOST_RANGE_SECTORS,
  MOST_RANGES,
  QUEUE_COUNT,
  SEG_MAX,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from './spec.js';

const BASE_FEATURES: bigint =
  VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_TOPOLOGY | TRANSPORT_FEATURES;

/** Those of a disk that can be written. */
const WRITE_FEATURES: bigint = VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;

export const featuresOf = ({ isReadOnly }: DiskShape): bigint =>
  BASE_FEATURES | (isReadOnly ? VIRTIO_BLK_F_RO : WRITE_FEATURES);

// struct virtio_blk_config, 5.2.4
const CONFIG_BYTES = 60;
const CAPACITY_AT = 0;
const SEG_MAX_AT = 12;
const BLK_SIZE_AT = 20;
const PHYSICAL_BLOCK_EXP_AT = 24;
const NUM_QUEUES_AT = 34;
const MAX_DISCARD_SECTORS_AT = 36;
const MAX_DISCARD_SEG_AT = 40;
const DISCARD_SECTOR_ALIGNMENT_AT = 44;
const MAX_WRITE_ZEROES_SECTORS_AT = 48;
const MAX_WRITE_ZEROES_SEG_AT = 52;
const WRITE_ZEROES_MAY_UNMAP_AT = 56;

const SECTOR = 512;
/** A page of the host's cache is 8 of these. */
const PHYSICAL_BLOCK_EXP = 3;

/** Device configuration structure: read-only, and constant. */
export class BlkConfig {
  readonly #bytes = new Uint8Array(CONFIG_BYTES);

  constructor({ bytes, discardBytes }: DiskShape) {
    const view = new DataView(this.#bytes.buffer);
    view.setBigUint64(CAPACITY_AT, BigInt(bytes / SECTOR), true);
    view.setUint32(SEG_MAX_AT, SEG_MAX, true);
    view.setUint32(BLK_SIZE_AT, SECTOR, true);
    view.setUint8(PHYSICAL_BLOCK_EXP_AT, PHYSICAL_BLOCK_EXP);
    view.setUint16(NUM_QUEUES_AT, QUEUE_COUNT, true);
    view.setUint32(MAX_DISCARD_SECTORS_AT, MOST_RANGE_SECTORS, true);
    view.setUint32(MAX_DISCARD_SEG_AT, MOST_RANGES, true);
    view.setUint32(DISCARD_SECTOR_ALIGNMENT_AT, discardBytes / SECTOR, true);
    view.setUint32(MAX_WRITE_ZEROES_SECTORS_AT, MOST_RANGE_SECTORS, true);
    view.setUint32(MAX_WRITE_ZEROES_SEG_AT, MOST_RANGES, true);
    view.setUint8(WRITE_ZEROES_MAY_UNMAP_AT, 1);
  }

  /** Value of 1, 2 or 4 bytes; all-ones past the structure. */
  read(offset: number, bytes: number): number {
    return littleEndian(this.#bytes, offset, bytes);
  }
}

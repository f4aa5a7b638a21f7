/** VFIO_DEVICE_FEATURE and the migration protocol, as linux/vfio.h has them: numbers, and what goes in and comes out. */
import type { Iova } from '../sys/address.js';

export const VFIO_DEVICE_FEATURE_MASK = 0xffff;
export const VFIO_DEVICE_FEATURE_GET = 1 << 16;
export const VFIO_DEVICE_FEATURE_SET = 1 << 17;
export const VFIO_DEVICE_FEATURE_PROBE = 1 << 18;

export const VFIO_DEVICE_FEATURE_MIGRATION = 1;
export const VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8;
export const VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9;

// enum vfio_device_mig_state
export const VFIO_DEVICE_STATE_ERROR = 0;
export const VFIO_DEVICE_STATE_STOP = 1;
export const VFIO_DEVICE_STATE_RUNNING = 2;
export const VFIO_DEVICE_STATE_STOP_COPY = 3;
export const VFIO_DEVICE_STATE_RESUMING = 4;
export const VFIO_DEVICE_STATE_RUNNING_P2P = 5;
export const VFIO_DEVICE_STATE_PRE_COPY = 6;
export const VFIO_DEVICE_STATE_PRE_COPY_P2P = 7;

export const VFIO_MIGRATION_STOP_COPY = 1 << 0;
export const VFIO_MIGRATION_P2P = 1 << 1;
export const VFIO_MIGRATION_PRE_COPY = 1 << 2;

/** A range of IOVAs whose writes are tracked. */
export interface LogRange {
  /** First byte, page-aligned. */
  readonly iova: Iova;
  /** Length in bytes. */
  readonly length: bigint;
}

/** What is given with a feature's SET, and with a report. */
export interface FeatureInput {
  /** MIG_DEVICE_STATE: a VFIO_DEVICE_STATE_. */
  readonly deviceState?: number;
  /** DMA_LOGGING_START. */
  readonly logging?: { readonly pageSize: bigint; readonly ranges: readonly LogRange[] };
  /** DMA_LOGGING_REPORT: one bit a page is set in `bitmap`. */
  readonly report?: LogRange & { readonly pageSize: bigint; readonly bitmap: Uint8Array };
}

/** What comes back: a GET's answer, or a SET's. */
export interface FeatureOutput {
  /** MIGRATION: VFIO_MIGRATION_ bits. */
  readonly migrationFlags?: number;
  /** MIG_DEVICE_STATE: the VFIO_DEVICE_STATE_ that the device is in now. */
  readonly deviceState?: number;
  /** MIG_DEVICE_STATE: where the device's data is to be read from, or written to; -1 if the arc has none. */
  readonly dataFd?: number;
  /** MIG_DATA_SIZE, bytes. */
  readonly stopCopyLength?: bigint;
  /** DMA_LOGGING_START: the page size the device tracks by. */
  readonly pageSize?: bigint;
}

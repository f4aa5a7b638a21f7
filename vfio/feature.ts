/** VFIO_DEVICE_FEATURE and the migration protocol of linux/vfio.h: numbers, inputs and outputs. */
import type { Iova } from '../sys/address.js';

export const VFIO_DEVICE_FEATURE_MASK = 0xffff;
export const VFIO_DEVICE_FEATURE_GET = 1 << 16;
export const VFIO_DEVICE_FEATURE_SET = 1 << 17;
export const VFIO_DEVICE_FEATURE_PROBE = 1 << 18;

export const VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0;
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

/** struct vfio_precopy_info: estimates of what a device in PRE_COPY has to be read. */
export interface PrecopyInfo {
  /** Bytes of the first copy that are left. Leave PRE_COPY once they are 0, else the stop takes longer. */
  readonly initialBytes: bigint;
  /** Bytes of what has changed since it was read. */
  readonly dirtyBytes: bigint;
}

/**
 * The device state's stream that a migration arc opens: the kernel's data_fd, which a vfio-user server cannot pass on.
 * Read it in PRE_COPY, PRE_COPY_P2P and STOP_COPY; write it in RESUMING. Disposing it does not change the device's
 * state. Machine thread only.
 */
export interface MigrationData extends Disposable {
  /**
   * Returns the bytes read: at most the length of `data`, 0 at the end of the stream.
   * @throws SysError from the device; ENOMSG in PRE_COPY and PRE_COPY_P2P if there is nothing to read for now, for which
   *   the kernel's mtty returns 0; EBADF after disposal
   */
  read(data: Uint8Array): number;
  /**
   * VFIO_MIG_GET_PRECOPY_INFO: what {@link read} has to give in PRE_COPY and PRE_COPY_P2P.
   * @throws SysError EINVAL in any other state; ENOTTY if the device or its provider cannot tell, as vfio-user has no message for it:
   *   read then until ENOMSG; EBADF after disposal
   */
  precopyInfo(): PrecopyInfo;
  /** Writes all of `data`. @throws SysError from the device; EBADF after disposal */
  write(data: Uint8Array): void;
}

/** Input of a feature: for SET, and for GET of DMA_LOGGING_REPORT. */
export interface FeatureInput {
  /** PCI_VF_TOKEN: the UUID that users of a physical function's VFs must present to open them. */
  readonly vfToken?: string;
  /** MIG_DEVICE_STATE: the VFIO_DEVICE_STATE_ to enter. */
  readonly deviceState?: number;
  /** DMA_LOGGING_START: the ranges to track, and the page size to track by, in bytes. */
  readonly logging?: { readonly pageSize: bigint; readonly ranges: readonly LogRange[] };
  /** DMA_LOGGING_REPORT: sets the bit of each page written, starting at bit 0 of byte 0; clears none. */
  readonly report?: LogRange & { readonly pageSize: bigint; readonly bitmap: Uint8Array };
}

/** Output of a feature for GET or SET; empty for PROBE. */
export interface FeatureOutput {
  /** MIGRATION: VFIO_MIGRATION_ bits. */
  readonly migrationFlags?: number;
  /** MIG_DEVICE_STATE: the VFIO_DEVICE_STATE_ that the device is now in. */
  readonly deviceState?: number;
  /** MIG_DEVICE_STATE: the stream that a SET opened; the caller disposes it. Absent if the SET opened none. */
  readonly data?: MigrationData;
  /** MIG_DATA_SIZE: estimate of the bytes that STOP_COPY will transfer. */
  readonly stopCopyLength?: bigint;
  /** DMA_LOGGING_START: the page size that the device tracks by, in bytes. */
  readonly pageSize?: bigint;
}

const KNOWN_FLAGS =
  VFIO_DEVICE_FEATURE_MASK | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PROBE;

/** Why `flags` are EINVAL whatever the feature; undefined if they are valid. @see vfio_ioctl_device_feature */
export function featureFlagsProblem(flags: number): string | undefined {
  const both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  if ((flags & ~KNOWN_FLAGS) !== 0) return `flags 0x${(flags >>> 0).toString(16)}`;
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) === 0 && (flags & both) === both) return 'GET or SET, not both';
  return undefined;
}

/** Bytes of a bitmap with one bit per page, rounded up to the u64 units in which the kernel fills it. */
export const bitmapBytes = (length: bigint, pageSize: bigint): bigint =>
  ((length + pageSize * 64n - 1n) / (pageSize * 64n)) * 8n;

/** Why a report is EINVAL; undefined if it is valid. @see vfio_ioctl_device_feature_logging_report */
export function reportProblem({
  length,
  pageSize,
  bitmap,
}: NonNullable<FeatureInput['report']>): string | undefined {
  if (pageSize < 4096n || (pageSize & (pageSize - 1n)) !== 0n)
    return 'the page size must be a power of two, at least 4096';
  if (BigInt(bitmap.length) * 8n < (length + pageSize - 1n) / pageSize)
    return 'the bitmap is too short for the range';
  return undefined;
}

/** Whether a device in `state` is read while it runs. */
export const isPreCopyState = (state: number): boolean =>
  state === VFIO_DEVICE_STATE_PRE_COPY || state === VFIO_DEVICE_STATE_PRE_COPY_P2P;

/** Whether `state` belongs to the saving group, whose states share one stream to read. */
export const isSavingState = (state: number): boolean =>
  state === VFIO_DEVICE_STATE_STOP_COPY || isPreCopyState(state);

/** Whether a stream opened in state `from` stays open in state `to`. */
export const keepsMigrationData = (from: number, to: number): boolean =>
  isSavingState(from) ? isSavingState(to) : from === VFIO_DEVICE_STATE_RESUMING && to === from;

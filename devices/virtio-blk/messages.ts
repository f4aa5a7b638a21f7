/** Messages between a disk's registers and its queue. {@link EventTask.call} sends commands, which take effect before it returns. */
import type { SysErrorInit } from '../../sys/error.js';
import type { DiskImage } from '../block/disk-image.js';
import type { FunctionCommand } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import type { TransportStateBuffer } from '../virtio/transport-state.js';

/** Data that starts a queue task. */
export interface DiskTaskData {
  readonly shared: TransportStateBuffer;
  /** The queue's eventfd, which outlives the task. */
  readonly doorbell: number;
  /** What GET_ID answers, at most 20 characters of ASCII. */
  readonly serial: string;
}

export type DiskCommand =
  | FunctionCommand
  /** The reply is an {@link OpenImageReply}. */
  | { readonly kind: 'openImage'; readonly image: DiskImage }
  /** @param hasFlush whether the driver flushes; else each write is flushed before it is returned. 5.2.6.2 */
  | { readonly kind: 'start'; readonly queue: QueueSetup; readonly hasFlush: boolean };

/** The parts of the error to throw, or the disk. */
export type OpenImageReply = { readonly error: SysErrorInit } | { readonly disk: DiskShape };

/** What the guest learns of a disk. */
export interface DiskShape {
  /** Multiple of 512. */
  readonly bytes: number;
  readonly isReadOnly: boolean;
  /** @see BlockImage.discardBytes */
  readonly discardBytes: number;
}

/** Notices from the queue to the registers. */
export type DiskNotice =
  /** The guest violated the specification: the queue has stopped, and the device needs a reset. */
  | { readonly kind: 'misuse'; readonly what: string }
  /** The queue has stopped, as it uses memory of another process. */
  | { readonly kind: 'remote' }
  /** The first request that the host failed since the start. */
  | { readonly kind: 'ioError'; readonly error: string };

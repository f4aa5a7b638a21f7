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
  /**
   * @param hasFlush whether the driver flushes; else each write is flushed before it is returned. 5.2.6.2
   * @param epoch comes back with the notice of a queue that is remote
   * @param position where it goes on; 0 if a driver has just set it up
   */
  | {
      readonly kind: 'start';
      readonly queue: QueueSetup;
      readonly hasFlush: boolean;
      readonly epoch: number;
      readonly position: number;
    }
  /** Waits for all that has begun. */
  | { readonly kind: 'drain' }
  /** Begins a request of the remote queue. The reply is a string if its chain has no header, or no place for a status. */
  | { readonly kind: 'begin'; readonly request: RemoteRequest }
  /** The reply is all that is done since the last one, a list of {@link RemoteDone}. */
  | { readonly kind: 'takeDone' }
  /** The remote queue has returned chains. */
  | { readonly kind: 'used' }
  /** A turn of the remote queue is over. @param hasMore whether it wants another one */
  | { readonly kind: 'endTurn'; readonly hasMore: boolean }
  /** The remote queue has stopped: the device needs a reset. */
  | { readonly kind: 'giveUp' };

/** A request in copies. */
export interface RemoteRequest {
  readonly id: number;
  /** What the device reads. */
  readonly given: Uint8Array;
  /** Bytes of what it writes, with that of the status. */
  readonly room: number;
}

/** A request that is done. */
export interface RemoteDone {
  readonly id: number;
  /** What the device writes. */
  readonly space: Uint8Array;
}

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
  /** The queue uses memory of another process: the registers' thread serves it, from the chain at `position` on. */
  | { readonly kind: 'remote'; readonly position: number; readonly epoch: number }
  /** The remote queue has something to do; the next notice of this kind comes after 'endTurn'. */
  | { readonly kind: 'turn' }
  /** The first request that the host failed since the start. */
  | { readonly kind: 'ioError'; readonly error: string };

/**
 * Messages between registers and queues. {@link EventTask.call} sends commands, which take effect before it returns.
 */
import type { SysErrorInit } from '../../sys/error.js';
import type { FunctionCommand, QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import type { TransportStateBuffer } from '../virtio/transport-state.js';
import type { Negotiated } from './negotiated.js';

/** Data that starts a queue task. */
export interface QueueTaskData {
  readonly shared: TransportStateBuffer;
  /** One eventfd per queue of the device; they outlive the task. */
  readonly doorbells: readonly number[];
  /** The queue pair that the task serves, and how many the device has. */
  readonly pair: number;
  readonly pairs: number;
  /** Of several pairs: an eventfd by which the others tell the first one, which has the INTx pin. */
  readonly pin: number;
  /** Longest frame either way, in bytes, Ethernet header included. */
  readonly maxFrame: number;
  /** Descriptor of a {@link PcapFile} that outlives the task; -1 for none. */
  readonly capture: number;
}

export type QueueCommand =
  /** The reply to `log` is what makes a SysError, if the kernel refuses to log what it writes. */
  | FunctionCommand
  /** The reply is an {@link OpenPortReply}. */
  | { readonly kind: 'openPort'; readonly backend: string; readonly address: string }
  /** `epoch` comes back with the notice `remote`. */
  | {
      readonly kind: 'start';
      readonly queues: readonly QueueSetup[];
      readonly negotiated: Negotiated;
      readonly epoch: number;
      /** Where they go on; absent if a driver has just set them up. */
      readonly positions: QueuePositions | undefined;
    }
  /**
   * Whether the driver uses the pair. Not of the first one, which it uses always; the others' stop to be with `stop`. The reply is
   * false, without a change, if the back-end refuses.
   */
  | { readonly kind: 'activate'; readonly isActive: boolean }
  /** Has the doorbell of the control queue announced, until `stop`. Of the first pair only, as is the next. */
  | { readonly kind: 'startControl'; readonly queue: number }
  /** The turn of the control queue is over, for which the notice `control` asked; `hasMore` asks for another one. */
  | { readonly kind: 'endControl'; readonly hasMore: boolean }
  /** A queue's vector in the shared state has changed. Of a {@link KernelPath} only, as are the next three. */
  | { readonly kind: 'vectors' }
  /** A range is about to be unmapped. */
  | { readonly kind: 'unmap'; readonly iova: number; readonly bytes: number }
  /** What the kernel has logged of a range is marked in the log of `log`. */
  | { readonly kind: 'gatherLog'; readonly iova: number; readonly bytes: number }
  /** The answer to the notice of that name: all maps are in the table, and no unmap is half done. */
  | { readonly kind: 'remap' }
  /**
   * Sends frames of a remote queue, each with its header; one of 0 bytes is counted as dropped. The reply is the number of
   * those it took.
   */
  | { readonly kind: 'transmit'; readonly frames: readonly Uint8Array[] }
  /** Takes frames for chains of this many bytes, in order. The reply is a {@link ReceiveReply}. */
  | { readonly kind: 'receive'; readonly capacities: readonly number[] }
  /** Interrupts for a remote queue. */
  | { readonly kind: 'used'; readonly queue: number }
  /** A remote queue has stopped: the device needs a reset. */
  | { readonly kind: 'giveUp'; readonly queue: number }
  /** The turn of the remote queues is over, for which the notice `turn` asked; `hasMore` asks for another one. */
  | { readonly kind: 'endTurn'; readonly hasMore: boolean };

/** Reply to `receive`. */
export interface ReceiveReply {
  readonly frames: readonly ReceivedFrame[];
  /** Whether further frames may wait. */
  readonly hasMore: boolean;
}

/** A frame with its header, which fills a number of chains. */
export interface ReceivedFrame {
  readonly bytes: Uint8Array;
  readonly chains: number;
}

/** The parts of the error to throw, or what the port has. */
export type OpenPortReply = { readonly error: SysErrorInit } | OpenedPort;

/** What a port has. */
export interface OpenedPort {
  /** Offloads, `TUN_F_` bits. */
  readonly offloads: number;
  /** Virtio features that it does not have. */
  readonly lacking: bigint;
  /** Who moves the frames, of a back-end that has the kernel do it: the kernel, or why not. */
  readonly kernel?: { readonly refusal: string } | OpenedKernel;
}

/** The kernel's data path of a port. */
export interface OpenedKernel {
  readonly refusal: undefined;
  /** Whether it can log the pages that it writes. */
  readonly canLog: boolean;
}

/** Notices from the queues to the registers. */
export type QueueNotice =
  /** The guest violated the specification: the queue has stopped, and the device needs a reset. */
  | { readonly kind: 'misuse'; readonly queue: number; readonly what: string }
  | RemoteNotice
  /** The kernel has met memory that it does not know: asks for the command of that name. Not sent again before it. */
  | { readonly kind: 'remap' }
  /** The kernel does not move the frames any more, until the device is reset. */
  | { readonly kind: 'handedOver'; readonly why: string }
  /** Remote queues may have work. Not sent again before `endTurn`, so that no number of doorbells makes more than one. */
  | { readonly kind: 'turn' }
  /** The control queue's doorbell has been rung. Not sent again before `endControl`. */
  | { readonly kind: 'control' }
  /** The port has failed; the guest's link is now down. */
  | { readonly kind: 'linkDown'; readonly error: string }
  /** The capture's file cannot be written any more. */
  | { readonly kind: 'captureEnded'; readonly error: string };

/** A queue has met memory of another process, and passes to the registers, which can access it. */
export interface RemoteNotice {
  readonly kind: 'remote';
  readonly queue: number;
  /** @see SplitQueue.position */
  readonly position: number;
  /** That of the queue's start. */
  readonly epoch: number;
}

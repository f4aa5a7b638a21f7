/** What the registers say to the queues. All are sent with {@link EventTask.call}, so that each has happened on return. */
import type { SysErrorInit } from '../../sys/error.js';
import type { DmaTableBuffer } from '../../vfio/dma-table.js';
import type { InterruptTargets } from '../mdev/device-interrupts.js';
import type { SharedStateBuffer } from './shared-state.js';

/** What a queue task is started with. */
export interface QueueTaskData {
  readonly shared: SharedStateBuffer;
  /** Eventfd per queue; they outlive the task. */
  readonly doorbells: readonly number[];
  /** Longest frame either way, in bytes, Ethernet header included. */
  readonly maxFrame: number;
}

/** A virtqueue as the driver has set it up. Addresses are IOVAs as numbers: those past 2^53 are not exact, nor ever mapped. */
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
  /** VIRTIO_F_INDIRECT_DESC has been negotiated. */
  readonly hasIndirect: boolean;
  /** VIRTIO_F_EVENT_IDX has been negotiated. */
  readonly hasEventIdx: boolean;
}

export type QueueCommand =
  /** Answered by undefined, or by what the error to throw is made of. */
  | { readonly kind: 'openPort'; readonly backend: string; readonly address: string }
  | { readonly kind: 'attach'; readonly table: DmaTableBuffer }
  | { readonly kind: 'detach' }
  | { readonly kind: 'start'; readonly queues: readonly QueueSetup[] }
  /** Afterwards no queue is served: guest memory is left alone, and no interrupt is raised. */
  | { readonly kind: 'stop' }
  | { readonly kind: 'interrupts'; readonly targets: InterruptTargets }
  | { readonly kind: 'maskIntx'; readonly isMasked: boolean }
  /** The command register in the shared state has changed: bus mastering, INTx disable. */
  | { readonly kind: 'command' };

export type OpenPortReply = SysErrorInit | undefined;

/** What the queues tell the registers of their own accord. */
export type QueueNotice =
  /** A guest's mistake: the queue has stopped, and the device needs a reset. */
  | { readonly kind: 'misuse'; readonly queue: number; readonly what: string }
  /** The port is gone; the guest sees its link go down. */
  | { readonly kind: 'linkDown'; readonly error: string };

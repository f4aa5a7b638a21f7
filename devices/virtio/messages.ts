import type { DmaTableBuffer } from '../../vfio/dma-table.js';
import type { WrittenPagesData } from '../../vfio/written-pages.js';
import type { InterruptTargets } from '../mdev/device-interrupts.js';

/** What the registers of any type tell its queues, by {@link EventTask.call}: it takes effect before that returns. */
export type FunctionCommand =
  | { readonly kind: 'attach'; readonly table: DmaTableBuffer }
  | { readonly kind: 'detach' }
  /** What is written to guest memory is logged there, or not any more. */
  | { readonly kind: 'log'; readonly log: WrittenPagesData | undefined }
  /** Stops the queues: no I/O is left, guest memory is no longer accessed, and no interrupt is raised. */
  | { readonly kind: 'stop' }
  /**
   * As `stop`, for a while: what has begun is done and shown to the driver, and later interrupts wait for `resume`. The reply is
   * {@link PausedQueues}.
   */
  | { readonly kind: 'pause' }
  /** Interrupts again; the queues are started by themselves. @param pending vectors that wait for their eventfd */
  | { readonly kind: 'resume'; readonly pending: readonly number[] }
  | { readonly kind: 'interrupts'; readonly targets: InterruptTargets }
  | { readonly kind: 'maskIntx'; readonly isMasked: boolean }
  /** The command register in the shared state has changed: bus mastering, INTx disable. */
  | { readonly kind: 'command' };

/**
 * Where queues go on, by index: of the next chain to take, which is that of the next one to return. A queue that has stopped for good has
 * none.
 */
export type QueuePositions = ReadonlyMap<number, number>;

/** What is left of a queue task's work while it is paused. */
export interface PausedQueues {
  readonly positions: QueuePositions;
  /** Vectors that wait for their eventfd. */
  readonly pending: readonly number[];
}

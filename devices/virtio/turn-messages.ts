/** Messages between a device whose registers' thread serves its queues, and the task that hears its doorbells. */
import type { FunctionCommand } from './messages.js';
import type { TransportShape, TransportStateBuffer } from './transport-state.js';

/** What a doorbell task counts. */
export type TurnCounter = 'doorbells' | 'interrupts';

/** Data that starts a doorbell task. */
export interface TurnTaskData {
  readonly shared: TransportStateBuffer;
  /** Of two threads: the first one is the task's, the second one that of the registers. It has what the task counts. */
  readonly shape: TransportShape<string>;
  /** An eventfd per queue, which outlives the task. */
  readonly doorbells: readonly number[];
}

/** What the registers tell the task, by {@link EventTask.call}. It pauses with no positions, as it serves no queue. */
export type TurnCommand =
  | FunctionCommand
  /** Queues have begun: hears their doorbells, and asks for a turn. */
  | { readonly kind: 'start'; readonly queues: readonly number[] }
  /** A queue has returned chains, and its driver wants an interrupt. */
  | { readonly kind: 'used'; readonly queue: number }
  /** The device configuration has changed, or the device needs a reset. */
  | { readonly kind: 'config' }
  /** A turn is over. @param hasMore whether it wants another one */
  | { readonly kind: 'endTurn'; readonly hasMore: boolean };

/** A doorbell has been rung: a turn is wanted. The next one comes after 'endTurn'. */
export interface TurnNotice {
  readonly kind: 'turn';
}

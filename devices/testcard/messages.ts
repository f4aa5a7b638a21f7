/** Messages between a card's registers, in the machine thread, and its engine, in the event thread. */
import type { DmaTableBuffer } from '../../vfio/dma-table.js';
import type { IntxPinBuffer } from '../mdev/intx-pin.js';
import type { MessageSignalsBuffer } from '../mdev/message-signals.js';
import type { CardStateBuffer } from './card-state.js';
import type { TransferProgram } from './transfer.js';

/** Data that starts the card's task. */
export interface CardTaskData {
  readonly state: CardStateBuffer;
  readonly pin: IntxPinBuffer;
  readonly signals: MessageSignalsBuffer;
  /** By doorbell: eventfds that outlive the task. */
  readonly doorbells: readonly number[];
}

/** {@link EventTask.call} sends them; they take effect before it returns. */
export type CardCommand =
  | { readonly kind: 'attach'; readonly table: DmaTableBuffer }
  | { readonly kind: 'detach' }
  /** @param number of the transfer, which its notices name */
  | {
      readonly kind: 'transfer';
      readonly number: number;
      readonly program: TransferProgram;
      readonly delayMs: number;
      /** Whether the machine thread can ask for addresses that are not mapped. */
      readonly asksUnmapped: boolean;
    }
  /** Ends the transfer. */
  | { readonly kind: 'stop' }
  /** -1: none. */
  | { readonly kind: 'unmaskBy'; readonly fd: number }
  /** Whether the pages that it writes are remembered, from none on. */
  | { readonly kind: 'log'; readonly isOn: boolean }
  /** Answers {@link WrittenPages.take}. */
  | { readonly kind: 'written'; readonly from: number; readonly end: number }
  /** Nothing, after whatever the task was in. */
  | { readonly kind: 'sync' };

/** The transfer meets memory of another process, or what is not mapped: the machine thread has the way to it. */
export interface RemoteNotice {
  readonly number: number;
  readonly program: TransferProgram;
}

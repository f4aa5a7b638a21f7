/** Messages between a card's registers (machine thread) and its line task (event thread). */
import type { SysErrorInit } from '../../sys/error.js';
import type { HostEnd, LineBuffers } from '../line/messages.js';
import type { IntxPinBuffer } from '../mdev/intx-pin.js';

/** Data that starts the task. */
export interface LineTaskData {
  readonly pin: IntxPinBuffer;
  /** By port; undefined for a port in loopback. */
  readonly lines: readonly (LineBuffers | undefined)[];
  /** Signalled when the registers have written bytes that a line waits for, or made room; outlives the task. */
  readonly doorbell: number;
}

/** Commands; {@link EventTask.call} sends them, so that each has taken effect when it returns. */
export type LineCommand =
  | { readonly kind: 'openLine'; readonly port: number; readonly end: HostEnd }
  /** The eventfd that unmasks the pin, -1 for none. */
  | { readonly kind: 'unmaskBy'; readonly fd: number };

/** Reply to `openLine`: the address of the host's end, or the parts of the error to throw. */
export type OpenLineReply = { readonly address: string } | { readonly error: SysErrorInit };

/** Notice of the task: bytes, room or carrier of the lines may have changed; `text` is a message for the user. */
export interface LineNotice {
  readonly text?: string;
}

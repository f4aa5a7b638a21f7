/** Messages between a card's registers (machine thread) and its line task (event thread). */
import type { SysErrorInit } from '../../sys/error.js';
import type { IntxPinBuffer } from '../mdev/intx-pin.js';
import type { ByteChannelBuffer } from './byte-channel.js';

/** Memory that a port's registers and its host line share. */
export interface LineBuffers {
  /** Bytes from the guest. */
  readonly sent: ByteChannelBuffer;
  /** Bytes to the guest. */
  readonly received: ByteChannelBuffer;
  /** Int32 [0]: 1 while a peer is connected. */
  readonly carrier: SharedArrayBuffer;
}

/** Data that starts the task. */
export interface LineTaskData {
  readonly pin: IntxPinBuffer;
  /** By port; undefined for a port in loopback. */
  readonly lines: readonly (LineBuffers | undefined)[];
  /** Signalled when the registers have written bytes that a line waits for, or made room; outlives the task. */
  readonly doorbell: number;
}

/** The host's end of a port: `pty`, or `unix` with the path of a listening socket. */
export interface HostEnd {
  readonly kind: 'pty' | 'unix';
  readonly path: string;
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

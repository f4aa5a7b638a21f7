/** What a card's registers (machine thread) and its line task (event thread) tell each other. */
import type { SysErrorInit } from '../../sys/error.js';
import type { IntxPinBuffer } from '../mdev/intx-pin.js';
import type { ByteChannelBuffer } from './byte-channel.js';

/** What a port's registers and its host line share. */
export interface LineBuffers {
  /** From the guest. */
  readonly sent: ByteChannelBuffer;
  /** To the guest. */
  readonly received: ByteChannelBuffer;
  /** Int32 [0]: 1 while somebody is at the other end. */
  readonly carrier: SharedArrayBuffer;
}

/** What the task is started with. */
export interface LineTaskData {
  readonly pin: IntxPinBuffer;
  /** By port; undefined for one that is looped back. */
  readonly lines: readonly (LineBuffers | undefined)[];
  /** Signalled when the registers have written what a line waits for, or made room; outlives the task. */
  readonly doorbell: number;
}

/** The other end of a port: `pty`, or `unix` with the path of a listening socket. */
export interface HostEnd {
  readonly kind: 'pty' | 'unix';
  readonly path: string;
}

/** All are sent with {@link EventTask.call}, so that each has happened on return. */
export type LineCommand =
  | { readonly kind: 'openLine'; readonly port: number; readonly end: HostEnd }
  /** The eventfd that unmasks the pin, -1 for none. */
  | { readonly kind: 'unmaskBy'; readonly fd: number };

/** Answer to `openLine`: where the other end is, or what the error to throw is made of. */
export type OpenLineReply = { readonly address: string } | { readonly error: SysErrorInit };

/** Of the task's own accord: bytes, room or carrier of the lines may have changed; `text` tells a person what happened. */
export interface LineNotice {
  readonly text?: string;
}

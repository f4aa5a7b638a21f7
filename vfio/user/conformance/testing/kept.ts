/** Messages that a test keeps, and sends on. */
import type { Channel, Message } from '../../channel.js';
import { encodeMessage } from '../../message.js';

/** A message that is kept, with the numbers of its descriptors. */
export interface Kept extends Omit<Message, 'fds' | 'payload'> {
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly fds: readonly number[];
}

/** What comes instead of a message: others, none, or the end of the connection. */
export type Instead = readonly Partial<Kept>[] | 'hang up';

/** Its descriptors are the channel's until the next receive. */
export const keep = ({ payload, fds, ...header }: Message): Kept => ({
  ...header,
  payload: payload.slice(),
  fds: fds.map(({ number }) => number),
});

/** Sends others in place of a message. */
export function send(channel: Channel, message: Kept, instead: readonly Partial<Kept>[]): void {
  for (const each of instead) {
    const { payload, fds, ...header } = { ...message, ...each };
    channel.send(encodeMessage(header, payload), fds);
  }
}

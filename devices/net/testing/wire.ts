import type { NetPort } from '../port.js';
import { Responder, type ResponderSources } from '../responder.js';
import { parseResponderOptions } from '../responder-options.js';
import { type Body, type Decoded, decode } from './frames.js';

/** A responder with these options; a test may replace its clock and sequence numbers. */
export function openResponder(address = '', sources?: ResponderSources): Responder {
  const options = parseResponderOptions(address);
  if (typeof options === 'string') throw new TypeError(options);
  return new Responder(options, sources);
}

/** Receives all queued frames. */
export function drain(port: NetPort): Uint8Array[] {
  const frames: Uint8Array[] = [];
  const buffer = new Uint8Array(65_536);
  for (let length = port.receive([buffer]); length > 0; length = port.receive([buffer])) {
    frames.push(buffer.slice(0, length));
  }
  return frames;
}

/** Sends frames and decodes the replies. */
export function exchange(port: NetPort, ...frames: Uint8Array[]): Decoded<Body>[] {
  for (const frame of frames) port.transmit([frame]);
  return drain(port).map(decode);
}

/** Sends a frame and returns its only reply, which must be of this kind. */
export function replyTo<Kind extends Body['kind']>(
  port: NetPort,
  kind: Kind,
  frame: Uint8Array,
): Decoded<Extract<Body, { kind: Kind }>> {
  const replies = exchange(port, frame);
  const [reply] = replies;
  if (replies.length !== 1 || reply?.body.kind !== kind) {
    throw new Error(`expected one ${kind} reply, got ${JSON.stringify(replies)}`);
  }
  return reply as Decoded<Extract<Body, { kind: Kind }>>;
}

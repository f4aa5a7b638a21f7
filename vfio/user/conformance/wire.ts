/** A connection on which a suite says what it likes, and hears what comes: nothing of a peer's makes it throw or wait for ever. */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { errno, errnoName } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { Channel } from '../channel.js';
import { encodeCommand, encodeError } from '../message.js';
import {
  commandName,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  MAX_ANSWER_FDS,
  TYPE_COMMAND,
  TYPE_MASK,
} from '../protocol.js';

/** A reply whose payload stays. Its descriptors are the wire's. */
export interface Reply {
  readonly id: number;
  readonly command: number;
  readonly size: number;
  readonly flags: number;
  readonly errno: number;
  readonly payload: Uint8Array;
  readonly fds: readonly Fd[];
}

/** What came: a reply, one with the Error bit, the end of the connection, nothing in time, or what is no message or never ends. */
export type Heard =
  | { readonly kind: 'reply'; readonly reply: Reply }
  | { readonly kind: 'error'; readonly reply: Reply }
  | { readonly kind: 'closed' }
  | { readonly kind: 'silence' }
  | { readonly kind: 'garbage'; readonly text: string };

/** Commands of a server that are answered while one reply is awaited. */
const MOST_COMMANDS = 256;
/** Descriptors of replies that are kept for a rule. */
const MOST_KEPT_FDS = 256;
/** Turns of the event loop before a wait sleeps: a peer in this process needs no more. */
const TURNS = 64;
const SLEEP_MS = 1;

/** Waits that grow from turns of the event loop to a millisecond each. */
export class Pauses {
  #count = 0;

  async next(): Promise<void> {
    if (this.#count++ < TURNS) await nextTurn();
    else await sleep(SLEEP_MS);
  }
}

/** Sends bytes as they are, as far as the peer reads them in time. @throws nothing that the peer causes */
export async function sendPatiently(
  channel: Channel,
  bytes: Uint8Array,
  fds: readonly number[],
  patienceMs: number,
): Promise<void> {
  const deadline = performance.now() + patienceMs;
  const pauses = new Pauses();
  try {
    if (fds.length > 0) return channel.send(bytes, fds);
    for (let sent = 0; sent < bytes.length && performance.now() < deadline; ) {
      const more = channel.sendSome(bytes.subarray(sent));
      sent += more;
      if (more === 0) await pauses.next();
    }
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}

type Kind<K extends Heard['kind']> = Extract<Heard, { readonly kind: K }>;

export const isSuccess = (heard: Heard): heard is Kind<'reply'> => heard.kind === 'reply';
export const isError = (heard: Heard): heard is Kind<'error'> => heard.kind === 'error';
/** Whether it is a reply of either kind. */
export const isAnswer = (heard: Heard): heard is Kind<'reply' | 'error'> =>
  isSuccess(heard) || isError(heard);

/** A word of 32 bits of a reply's payload; undefined if it has none there, or is none. */
export const wordAt = (heard: Heard, at: number): number | undefined => {
  if (!isSuccess(heard) || heard.reply.payload.length < at + 4) return undefined;
  const { payload } = heard.reply;
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getUint32(at, true);
};

/** What came, in words. */
export function describe(heard: Heard, patienceMs: number): string {
  switch (heard.kind) {
    case 'closed':
      return 'it closed the connection';
    case 'silence':
      return `nothing for ${patienceMs / 1000} s`;
    case 'garbage':
      return heard.text;
    case 'error':
      return `error ${heard.reply.errno === 0 ? 'without an errno' : errnoName(heard.reply.errno)}`;
    case 'reply': {
      const { command, payload, fds } = heard.reply;
      const descriptors = fds.length === 0 ? '' : ` and ${fds.length} descriptors`;
      return `a reply to ${commandName(command)} with a payload of ${payload.length} bytes${descriptors}`;
    }
  }
}

export class Wire implements Disposable {
  readonly patienceMs: number;
  readonly #channel: Channel;
  readonly #kept: Fd[] = [];
  #commands = 0;
  #lastId = 0x100;
  #end: Heard | undefined;
  /** Whether a reply was awaited in vain. */
  isSilent = false;

  /** Takes the descriptor of a connected socket. */
  constructor(socket: Fd, patienceMs: number) {
    this.patienceMs = patienceMs;
    this.#channel = new Channel(socket, MAX_ANSWER_FDS);
    this.#channel.setTimeouts(1, patienceMs);
  }

  /** Sends bytes as they are. What cannot be sent shows when the reply does not come. */
  send(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    return sendPatiently(this.#channel, bytes, fds, this.patienceMs);
  }

  /** Sends a command; returns its ID. */
  async command(
    command: number,
    payload?: Uint8Array,
    fds: readonly number[] = [],
    flags = 0,
  ): Promise<number> {
    this.#lastId = (this.#lastId + 1) & 0xffff;
    await this.send(encodeCommand(this.#lastId, command, payload, flags), fds);
    return this.#lastId;
  }

  /** Sends a command, and waits for the next reply, whatever that answers. */
  async ask(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<Heard> {
    await this.command(command, payload, fds);
    return this.hear();
  }

  /**
   * The next reply. Commands of the peer's are refused meanwhile.
   * @param waitMs how long at most
   */
  async hear(waitMs = this.patienceMs): Promise<Heard> {
    const deadline = performance.now() + waitMs;
    const pauses = new Pauses();
    while (this.#end === undefined) {
      const heard = await this.#next();
      if (typeof heard === 'object') return heard;
      if (performance.now() >= deadline) {
        this.isSilent = true;
        return { kind: 'silence' };
      }
      if (heard === 'nothing') await pauses.next();
    }
    return this.#end;
  }

  /** Whether the peer closes the connection in time, whatever it says before. */
  async isClosed(): Promise<boolean> {
    const deadline = performance.now() + this.patienceMs;
    while (performance.now() < deadline) {
      const heard = await this.hear(Math.max(0, deadline - performance.now()));
      if (!isAnswer(heard)) return heard.kind === 'closed';
    }
    return false;
  }

  async #next(): Promise<Heard | 'nothing' | 'command'> {
    try {
      const message = this.#channel.receive(false);
      if (message === undefined) return 'nothing';
      if ((message.flags & TYPE_MASK) === TYPE_COMMAND) {
        await this.#refuse(message.id, message.command, message.flags);
        return this.#end ?? 'command';
      }
      const fds = message.fds.splice(0, MOST_KEPT_FDS - this.#kept.length);
      this.#kept.push(...fds);
      const { id, command, size, flags, errno: code, payload } = message;
      const reply = { id, command, size, flags, errno: code, payload: payload.slice(), fds };
      return { kind: (flags & FLAG_ERROR) === 0 ? 'reply' : 'error', reply };
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.#end = isErrno(error, 'ECONNRESET')
        ? { kind: 'closed' }
        : { kind: 'garbage', text: error.hint ?? error.message };
      return this.#end;
    }
  }

  /** No memory is this client's: a server gets none of it by messages. */
  async #refuse(id: number, command: number, flags: number): Promise<void> {
    if (++this.#commands > MOST_COMMANDS)
      this.#end = { kind: 'garbage', text: `more than ${MOST_COMMANDS} commands of the server` };
    else if ((flags & FLAG_NO_REPLY) === 0) await this.send(encodeError(id, command, errno.EFAULT));
  }

  [Symbol.dispose](): void {
    for (const fd of this.#kept.splice(0)) fd[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
  }
}

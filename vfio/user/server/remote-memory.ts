/** Access to a client's memory by message: VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE. */
import type { Iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { RemoteMemory, UnmappedMemory } from '../../uapi.js';
import type { Channel, Message } from '../channel.js';
import { encodeCommand, Reader, Writer } from '../message.js';
import {
  commandName,
  FLAG_ERROR,
  TYPE_MASK,
  TYPE_REPLY,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_WRITE,
} from '../protocol.js';
import { MOST_ASKED } from './limits.js';

const ACCESS_BYTES = 16;

/** An access of {@link MessageMemory.access} that is under way. */
interface Asked {
  readonly iova: Iova;
  readonly data: Uint8Array;
  readonly isWrite: boolean;
  /** Bytes that are done. */
  readonly from: number;
  readonly done: (error: SysError | undefined) => void;
  /** When the client's answer is late, as a time of performance.now(). */
  readonly due: number;
}

/** {@link rw} waits for each answer. {@link access} does not; {@link take} and {@link expire} end what it begins. */
export class MessageMemory implements RemoteMemory, UnmappedMemory {
  readonly #channel: Channel;
  readonly #most: number;
  readonly #replyMs: number;
  readonly #defer: ((message: Message) => void) | undefined;
  #lastId = 0;
  #failure: SysError | undefined;
  /** By id of the message that asks. */
  readonly #asked = new Map<number, Asked>();
  /** Ids whose answers are late. A client that has not answered is not asked again before it does. */
  readonly #late = new Set<number>();

  /**
   * @param most maximum bytes of data that the client accepts in one message
   * @param replyMs timeout of a reply
   * @param defer queues commands that arrive before the reply; absent on a twin socket, which carries no commands
   */
  constructor(channel: Channel, most: number, replyMs: number, defer?: (message: Message) => void) {
    this.#replyMs = replyMs;
    this.#channel = channel;
    this.#most = most;
    this.#defer = defer;
  }

  /** The error after which the connection must end. A device that has asked for memory on its own keeps it to itself. */
  get failure(): SysError | undefined {
    return this.#failure;
  }

  rw(iova: Iova, data: Uint8Array, isWrite: boolean): void {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      this.#copy(iova, data, isWrite);
    } catch (error) {
      if (endsConnection(error)) this.#failure = error;
      throw error;
    }
  }

  access(iova: Iova, data: Uint8Array, isWrite: boolean, done: Asked['done']): void {
    if (this.#defer === undefined) done(errorOf(() => this.rw(iova, data, isWrite)));
    else if (this.#late.size > 0) done(this.#lateError(isWrite, iova));
    else if (this.#asked.size >= MOST_ASKED)
      done(refusal(isWrite, iova, errno.EBUSY, `${MOST_ASKED} accesses wait for the client`));
    else this.#begin({ iova, data, isWrite, from: 0, done, due: performance.now() + this.#replyMs });
  }

  /** Asks for the next piece. */
  #begin(asked: Asked): void {
    const { iova, data, isWrite, from, done } = asked;
    const at = iova + BigInt(from);
    const piece = data.subarray(from, from + this.#most);
    const error = errorOf(() => {
      if (this.#failure !== undefined) throw this.#failure;
      this.#asked.set(this.#send(isWrite, at, piece), asked);
    });
    if (endsConnection(error)) this.#failure = error;
    if (error !== undefined) done(error);
  }

  /** Takes an answer that {@link access} waits for. Returns false for any other message. */
  take({ id, command, flags, errno: code, payload }: Message): boolean {
    if (this.#late.delete(id)) return true;
    const asked = this.#asked.get(id);
    if (asked === undefined || command !== commandOf(asked.isWrite)) return false;
    this.#asked.delete(id);
    const { iova, data, isWrite, from, done } = asked;
    const piece = data.subarray(from, from + this.#most);
    const next = from + piece.length;
    const error = errorOf(() => {
      if ((flags & FLAG_ERROR) !== 0) throw refusal(isWrite, iova + BigInt(from), code || errno.EIO);
      if (!isWrite) readAnswer(payload, piece);
    });
    if (error === undefined && next < data.length) this.#begin({ ...asked, from: next });
    else done(error);
    return true;
  }

  /** Ends the accesses whose answers are late. */
  expire(): void {
    const now = performance.now();
    for (const [id, { iova, isWrite, done, due }] of [...this.#asked]) {
      if (now < due) continue;
      this.#asked.delete(id);
      this.#late.add(id);
      done(this.#lateError(isWrite, iova));
    }
  }

  #lateError(isWrite: boolean, at: bigint): SysError {
    return refusal(isWrite, at, errno.ETIMEDOUT, `the client has not replied for ${this.#replyMs / 1000} s`);
  }

  #copy(iova: Iova, data: Uint8Array, isWrite: boolean): void {
    for (let at = 0; at < data.length; at += this.#most) {
      const piece = data.subarray(at, at + this.#most);
      const answer = this.#ask(isWrite, iova + BigInt(at), piece);
      if (!isWrite) readAnswer(answer, piece);
    }
  }

  /** Sends a request; returns its id. */
  #send(isWrite: boolean, at: bigint, piece: Uint8Array): number {
    do this.#lastId = (this.#lastId + 1) & 0xffff;
    while (this.#isAsked(this.#lastId));
    const writer = new Writer(ACCESS_BYTES + (isWrite ? piece.length : 0)).u64(at).u64(piece.length);
    const { bytes } = isWrite ? writer.data(piece) : writer;
    this.#channel.send(encodeCommand(this.#lastId, commandOf(isWrite), bytes));
    return this.#lastId;
  }

  #isAsked(id: number): boolean {
    return this.#asked.has(id) || this.#late.has(id);
  }

  #ask(isWrite: boolean, at: bigint, piece: Uint8Array): Uint8Array {
    const id = this.#send(isWrite, at, piece);
    const fail = (code: number, hint?: string) => refusal(isWrite, at, code, hint);
    const deadline = performance.now() + this.#replyMs;
    while (performance.now() < deadline) {
      const message = this.#channel.receive(true, deadline);
      if (message === undefined) continue;
      const isReply = (message.flags & TYPE_MASK) === TYPE_REPLY;
      if (!isReply && this.#defer === undefined)
        throw fail(errno.EPROTO, 'a command arrived on the twin socket');
      // Whoever has asked for another answer may ask for memory when it comes: not in the middle of this access.
      if (!isReply || this.#isAsked(message.id)) {
        this.#defer?.(message);
        continue;
      }
      if (message.id !== id || message.command !== commandOf(isWrite))
        throw fail(errno.EPROTO, 'a reply without a request');
      if ((message.flags & FLAG_ERROR) !== 0) throw fail(message.errno || errno.EIO);
      return message.payload;
    }
    throw this.#lateError(isWrite, at);
  }
}

const commandOf = (isWrite: boolean): number => (isWrite ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ);

/** @throws SysError EINVAL for a short one */
function readAnswer(payload: Uint8Array, piece: Uint8Array): void {
  const reader = new Reader(VFIO_USER_DMA_READ, payload);
  reader.u64();
  reader.u64();
  piece.set(reader.bytes(piece.length));
}

const refusal = (isWrite: boolean, at: bigint, code: number, hint?: string): SysError =>
  new SysError({
    call: commandName(commandOf(isWrite)),
    target: `IOVA 0x${at.toString(16)} of the client`,
    errno: code,
    hint,
  });

/** The error of a call that fails. */
function errorOf(call: () => void): SysError | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    if (error instanceof SysError) return error;
    throw error;
  }
}

/** Whether an error ends the connection: the peer has disconnected, or the stream is out of sync. */
export const endsConnection = (error: unknown): error is SysError =>
  error instanceof SysError &&
  (error.code === 'ECONNRESET' || error.code === 'EPROTO' || error.code === 'ETIMEDOUT');

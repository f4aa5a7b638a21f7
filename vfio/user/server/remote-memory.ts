/** Access to a client's memory by message: VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE. */
import type { Iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { RemoteMemory } from '../../uapi.js';
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

const ACCESS_BYTES = 16;

export class MessageMemory implements RemoteMemory {
  readonly #channel: Channel;
  readonly #most: number;
  readonly #replyMs: number;
  readonly #defer: ((message: Message) => void) | undefined;
  #lastId = 0;
  #failure: SysError | undefined;

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

  #copy(iova: Iova, data: Uint8Array, isWrite: boolean): void {
    for (let at = 0; at < data.length; at += this.#most) {
      const piece = data.subarray(at, at + this.#most);
      if (isWrite) this.#write(iova + BigInt(at), piece);
      else this.#read(iova + BigInt(at), piece);
    }
  }

  #read(at: bigint, data: Uint8Array): void {
    const request = new Writer(ACCESS_BYTES).u64(at).u64(data.length).bytes;
    const reader = new Reader(VFIO_USER_DMA_READ, this.#ask(VFIO_USER_DMA_READ, request, at));
    reader.u64();
    reader.u64();
    data.set(reader.bytes(data.length));
  }

  #write(at: bigint, data: Uint8Array): void {
    const request = new Writer(ACCESS_BYTES + data.length).u64(at).u64(data.length).data(data).bytes;
    this.#ask(VFIO_USER_DMA_WRITE, request, at);
  }

  #ask(command: number, payload: Uint8Array, at: bigint): Uint8Array {
    this.#lastId = (this.#lastId + 1) & 0xffff;
    const id = this.#lastId;
    this.#channel.send(encodeCommand(id, command, payload));
    const fail = (code: number, hint?: string) =>
      new SysError({
        call: commandName(command),
        target: `IOVA 0x${at.toString(16)} of the client`,
        errno: code,
        hint,
      });
    const deadline = performance.now() + this.#replyMs;
    while (performance.now() < deadline) {
      const message = this.#channel.receive(true, deadline);
      if (message === undefined) continue;
      if ((message.flags & TYPE_MASK) !== TYPE_REPLY) {
        if (this.#defer === undefined) throw fail(errno.EPROTO, 'a command arrived on the twin socket');
        this.#defer(message);
        continue;
      }
      if (message.id !== id || message.command !== command)
        throw fail(errno.EPROTO, 'a reply without a request');
      if ((message.flags & FLAG_ERROR) !== 0) throw fail(message.errno === 0 ? errno.EIO : message.errno);
      return message.payload;
    }
    throw fail(errno.ETIMEDOUT, `the client has not replied for ${this.#replyMs / 1000} s`);
  }
}

/** Whether an error ends the connection: the peer has disconnected, or the stream is out of sync. */
export const endsConnection = (error: unknown): error is SysError =>
  error instanceof SysError &&
  (error.code === 'ECONNRESET' || error.code === 'EPROTO' || error.code === 'ETIMEDOUT');

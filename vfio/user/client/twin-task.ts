/**
 * Event-thread task: serves a server's requests on the twin socket, so that they need not wait for the machine thread, nor meet
 * its commands on the main socket.
 */
import { errno } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import type { EventContext, EventTaskHandlers } from '../../../sys/event-task.js';
import { duplicateFd, type Fd } from '../../../sys/fd.js';
import { PROT_READ, PROT_WRITE } from '../../../sys/mapping.js';
import { type DmaTableBuffer, DmaTableReader } from '../../dma-table.js';
import { Channel, type Message } from '../channel.js';
import { encodeError, encodeReply } from '../message.js';
import {
  commandName,
  FLAG_NO_REPLY,
  TYPE_COMMAND,
  TYPE_MASK,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_WRITE,
} from '../protocol.js';
import { type DmaCopy, serveDma } from './dma-request.js';

export interface TwinTaskData {
  /** The twin socket; the task uses a duplicate. */
  readonly fd: number;
  /** The maps through which the server may access memory. */
  readonly table: DmaTableBuffer;
}

/** Why the server's requests cannot be served any more. */
export interface TwinNotice {
  readonly problem: string;
}

/** Requests in a row, after which other tasks of the thread get their turn. */
const MOST_REQUESTS = 64;

export function start(data: unknown, context: EventContext): EventTaskHandlers {
  const { fd, table } = data as TwinTaskData;
  const socket = new TwinSocket(duplicateFd(fd, 'twin socket'), new DmaTableReader(table), context);
  return { message: () => undefined, stop: () => socket[Symbol.dispose]() };
}

class TwinSocket implements Disposable {
  readonly #channel: Channel;
  /** An event thread watches a descriptor once: this one for its room to write. */
  readonly #writable: Fd;
  readonly #context: EventContext;
  readonly #copy: DmaCopy;
  /** The watch or timer that continues the work. */
  #next: Disposable | undefined;
  #reply: Uint8Array | undefined;
  #sent = 0;

  constructor(fd: Fd, table: DmaTableReader, context: EventContext) {
    this.#channel = new Channel(fd);
    this.#writable = fd.duplicate();
    this.#context = context;
    this.#copy = (at, bytes, isWrite) => copy(table, at, bytes, isWrite);
    this.#serve();
  }

  #serve(): void {
    this.#next?.[Symbol.dispose]();
    this.#next = undefined;
    try {
      for (let count = 0; count < MOST_REQUESTS; count++) {
        if (!this.#flush()) {
          // A server that does not read its replies gets no more of them, and blocks nobody else.
          this.#next = this.#context.watchWritable(this.#writable.number, () => this.#serve());
          return;
        }
        const message = this.#channel.receive(false);
        if (message === undefined) {
          this.#next = this.#context.watch(this.#channel.fd.number, () => this.#serve());
          return;
        }
        this.#reply = this.#answer(message);
        this.#sent = 0;
      }
      this.#next = this.#context.after(0, () => this.#serve());
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      // After a hang-up, the main socket reports the end.
      if (!isErrno(error, 'ECONNRESET'))
        this.#context.notify({ problem: error.message } satisfies TwinNotice);
    }
  }

  /** Whether all of the reply is sent. */
  #flush(): boolean {
    if (this.#reply === undefined) return true;
    this.#sent += this.#channel.sendSome(this.#reply.subarray(this.#sent));
    if (this.#sent < this.#reply.length) return false;
    this.#reply = undefined;
    return true;
  }

  #answer({ id, command, payload, flags }: Message): Uint8Array | undefined {
    if ((flags & TYPE_MASK) !== TYPE_COMMAND) {
      const hint = `an answer (${commandName(command)}) without a request, on the twin socket`;
      throw new SysError({ call: 'receive', target: this.#channel.target, errno: errno.EPROTO, hint });
    }
    let reply: Uint8Array;
    try {
      reply = encodeReply(id, command, serveDma(command, payload, this.#copy));
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      reply = encodeError(id, command, error.errno);
    }
    return (flags & FLAG_NO_REPLY) === 0 ? reply : undefined;
  }

  [Symbol.dispose](): void {
    this.#next?.[Symbol.dispose]();
    this.#writable[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
  }
}

/** Between enter and leave, an unmap of the machine thread waits: a message's data is all that it waits for. */
function copy(table: DmaTableReader, at: bigint, data: Uint8Array, isWrite: boolean): void {
  table.enter();
  try {
    for (let done = 0; done < data.length; ) {
      const from = Number(at) + done;
      const memory = table.piece(from, data.length - done, isWrite ? PROT_WRITE : PROT_READ);
      if (memory === undefined) throw refused(table, from, isWrite);
      if (isWrite) memory.set(data.subarray(done, done + memory.length));
      else data.set(memory, done);
      done += memory.length;
    }
  } finally {
    table.leave();
  }
}

function refused(table: DmaTableReader, at: number, isWrite: boolean): SysError {
  const isMapped = table.piece(at, 1, 0) !== undefined;
  return new SysError({
    call: commandName(isWrite ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ),
    target: `IOVA 0x${at.toString(16)}`,
    errno: isMapped ? errno.EPERM : errno.EFAULT,
  });
}

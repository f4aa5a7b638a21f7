/** A connection to a vfio-user server: sends commands, receives replies, and serves the server's requests. */

import { readlinkSync } from 'node:fs';
import { errno } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { poll } from '../../../sys/libc.js';
import { Scope } from '../../../sys/scope.js';
import { trace } from '../../../sys/trace.js';
import { connectUnix } from '../../../sys/unix-socket.js';
import { createDmaTable, DmaTableWriter } from '../../dma-table.js';
import { Channel, type Message } from '../channel.js';
import { encodeCommand, encodeError, encodeReply, invalid } from '../message.js';
import {
  commandName,
  DEFAULT_MAX_DATA_XFER_SIZE,
  DEFAULT_MAX_DMA_MAPS,
  DEFAULT_PGSIZES,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  MAJOR,
  MAX_ANSWER_FDS,
  MINOR,
  TYPE_COMMAND,
  TYPE_MASK,
  VFIO_USER_VERSION,
} from '../protocol.js';
import { type Capabilities, decodeVersion, encodeVersion, type Version } from '../version.js';

/** A reply. Its payload is valid until the next command; the caller closes its descriptors. */
export interface Answer {
  readonly payload: Uint8Array;
  readonly fds: Fd[];
}

/** A command's payload and descriptors, which are the sender's. */
export interface Request {
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

/** Handles a request of the server and returns the reply's payload. @throws SysError, whose errno becomes the reply */
export type RequestHandler = (command: number, payload: Uint8Array) => Uint8Array;

/** Most requests of the server that are served at a time, so that it cannot starve the guest. */
const MOST_REQUESTS = 256;
/** Most commands that {@link Connection.askEach} has sent and not heard of: their answers fit into any socket's buffer. */
const MOST_UNANSWERED = 64;
const POLLIN = 1;

export class Connection implements Disposable {
  readonly path: string;
  readonly capabilities: Capabilities;
  /** Minor version that both sides speak. */
  readonly minor: number;
  readonly #channel: Channel;
  readonly #timeoutMs: number;
  /** The maps for requests on the twin socket; present with that. */
  dmaTable: DmaTableWriter | undefined;
  #twin: Fd | undefined;
  readonly #onGone: (() => void)[] = [];
  #onBacklog: (() => void) | undefined;
  #handler: RequestHandler | undefined;
  #lastId = 0;
  /** Why the connection ended; undefined while it is open. */
  #failure: SysError | undefined;

  private constructor(path: string, channel: Channel, timeoutMs: number, hasTwin: boolean) {
    this.path = path;
    this.#channel = channel;
    this.#timeoutMs = timeoutMs;
    channel.setTimeouts(timeoutMs, timeoutMs);
    ({ minor: this.minor, capabilities: this.capabilities } = this.#negotiate(hasTwin));
  }

  /**
   * Connects and negotiates the version.
   * @param timeoutMs timeout of each reply
   * @param hasTwin whether the server's requests may have a socket of their own
   * @throws SysError ENOENT, ECONNREFUSED, ETIMEDOUT, EPROTO, ENOTSUP, with a hint
   */
  static open(path: string, timeoutMs: number, hasTwin = true): Connection {
    const channel = new Channel(connectUnix(path, true), MAX_ANSWER_FDS);
    try {
      return new Connection(path, channel, timeoutMs, hasTwin);
    } catch (error) {
      channel[Symbol.dispose]();
      throw error;
    }
  }

  get isGone(): boolean {
    return this.#failure !== undefined;
  }

  /** The twin socket, which has the server's requests if it is there. */
  get twin(): number | undefined {
    return this.#twin?.number;
  }

  /** The socket, for waiting for the server's requests. */
  get fd(): number {
    return this.#channel.fd.number;
  }

  /** Sets the handler of the server's requests; undefined refuses them. */
  setHandler(handler: RequestHandler | undefined): void {
    this.#handler = handler;
  }

  /** Calls back once, when the connection ends. */
  whenGone(callback: () => void): void {
    if (this.isGone) callback();
    else this.#onGone.push(callback);
  }

  /**
   * Calls back whenever requests may be left that only {@link serveRequests} serves: they are received already, so no
   * event of the socket announces them again.
   */
  whenBacklog(callback: () => void): void {
    this.#onBacklog = callback;
    if (this.#channel.hasBytes) callback();
  }

  #negotiate(hasTwin: boolean): Pick<Version, 'minor' | 'capabilities'> {
    const mine = {
      maxMsgFds: MAX_ANSWER_FDS,
      maxDataXferSize: DEFAULT_MAX_DATA_XFER_SIZE,
      maxDmaMaps: DEFAULT_MAX_DMA_MAPS,
      pgsizes: DEFAULT_PGSIZES,
      hasWriteMultiple: false,
      twinSocket: hasTwin ? { fdIndex: undefined } : undefined,
    };
    const version = encodeVersion({ major: MAJOR, minor: MINOR, capabilities: mine }, false);
    const { payload, fds } = this.ask(VFIO_USER_VERSION, version, [], MAX_ANSWER_FDS);
    using scope = new Scope();
    for (const fd of fds) scope.own(fd);
    const { minor, capabilities } = decodeVersion(payload);
    const { twinSocket } = capabilities;
    if (hasTwin && twinSocket !== undefined) this.#takeTwin(fds[twinSocket.fdIndex ?? -1]);
    if (minor > MINOR)
      throw this.#end(errno.EPROTO, `the server replies with version ${MAJOR}.${minor} to ${MAJOR}.${MINOR}`);
    // The server may accept more data than this side accepts in one message.
    const maxDataXferSize = Math.min(capabilities.maxDataXferSize, mine.maxDataXferSize);
    return { minor, capabilities: { ...capabilities, maxDataXferSize } };
  }

  /** Takes the socket of the server's requests. Of anything else, a call to watch it could block. */
  #takeTwin(fd: Fd | undefined): void {
    if (fd === undefined || !readlinkSync(`/proc/self/fd/${fd.number}`).startsWith('socket:'))
      throw this.#end(errno.EPROTO, 'its twin socket is no socket');
    this.#twin = fd.duplicate();
    this.dmaTable = new DmaTableWriter(createDmaTable(DEFAULT_MAX_DMA_MAPS));
  }

  /**
   * Sends a command and waits for its reply, serving the server's requests in the meantime.
   * @param mostFds descriptors that the reply may have; more are closed
   * @throws SysError with the server's errno; ENODEV if the connection has ended
   */
  ask(command: number, payload?: Uint8Array, fds: readonly number[] = [], mostFds = 0): Answer {
    return this.#answer(command, this.#send(command, 0, payload, fds), mostFds);
  }

  /**
   * Sends commands without waiting for each one's reply, which has nothing that matters but its errno.
   * @returns for each, the error with which the server refused it; undefined if it did not
   * @throws SysError ENODEV if the connection has ended, or does now
   */
  askEach(command: number, requests: Iterable<Request>): (SysError | undefined)[] {
    const ids: number[] = [];
    const errors: (SysError | undefined)[] = [];
    const hear = (): void => void errors.push(this.#refusal(command, ids[errors.length] as number));
    for (const { payload, fds } of requests) {
      if (ids.length - errors.length === MOST_UNANSWERED) hear();
      ids.push(this.#send(command, 0, payload, fds));
    }
    while (errors.length < ids.length) hear();
    return errors;
  }

  #refusal(command: number, id: number): SysError | undefined {
    try {
      this.#answer(command, id, 0);
      return undefined;
    } catch (error) {
      if (this.isGone || !(error instanceof SysError)) throw error;
      return error;
    }
  }

  #answer(command: number, id: number, mostFds: number): Answer {
    // One deadline for the whole exchange: requests of the server do not extend it.
    const deadline = performance.now() + this.#timeoutMs;
    for (;;) {
      const message = this.#receive(command, deadline);
      if ((message.flags & TYPE_MASK) === TYPE_COMMAND) {
        this.#serve(message);
        if (performance.now() >= deadline) throw this.#late(command);
        continue;
      }
      if (message.id !== id || message.command !== command)
        throw this.#end(errno.EPROTO, `it answers ${commandName(message.command)} ${message.id} to ${id}`);
      // One read may have received requests behind the reply.
      if (this.#channel.hasBytes) this.#onBacklog?.();
      // The channel closes the rest.
      if ((message.flags & FLAG_ERROR) === 0)
        return { payload: message.payload, fds: message.fds.splice(0, mostFds) };
      const code = message.errno > 0 && message.errno < MAX_ERRNO ? message.errno : errno.EINVAL;
      throw new SysError({ call: commandName(command), target: this.path, errno: code });
    }
  }

  /** Sends a command without a reply. @throws SysError ENODEV if the connection has ended */
  post(command: number, payload: Uint8Array): void {
    this.#send(command, FLAG_NO_REPLY, payload, []);
  }

  /** Serves pending requests of the server, a number of them at a time, and detects its disconnection. Never throws. */
  serveRequests(): void {
    for (let count = 0; count < MOST_REQUESTS && !this.isGone; count++) {
      try {
        const message = this.#channel.receive(false);
        if (message === undefined) return;
        if ((message.flags & TYPE_MASK) !== TYPE_COMMAND)
          throw this.#end(errno.EPROTO, 'it sent a reply without a request');
        this.#serve(message);
      } catch (error) {
        if (!this.isGone) this.#fail(error);
      }
    }
    if (!this.isGone) this.#onBacklog?.();
  }

  #send(command: number, flags: number, payload: Uint8Array | undefined, fds: readonly number[]): number {
    if (this.#failure !== undefined) throw gone(commandName(command), this.path, this.#failure);
    this.#lastId = (this.#lastId + 1) & 0xffff;
    try {
      this.#channel.send(encodeCommand(this.#lastId, command, payload, flags), fds);
      return this.#lastId;
    } catch (error) {
      throw this.#fail(error);
    }
  }

  /** Waits for a message until the deadline; resumes after signals, which wake this thread for other work. */
  #receive(command: number, deadline: number): Message {
    try {
      for (;;) {
        const message = this.#channel.receive(true, deadline);
        if (message !== undefined) return message;
        if (performance.now() >= deadline) break;
      }
    } catch (error) {
      throw this.#fail(error);
    }
    throw this.#late(command);
  }

  /** Ends the connection because the server has violated the protocol. */
  giveUp(problem: string): void {
    if (!this.isGone) this.#end(errno.EPROTO, problem);
  }

  #late(command: number): SysError {
    const hint = `no answer to ${commandName(command)} for ${this.#timeoutMs / 1000} s`;
    return this.#end(errno.ETIMEDOUT, hint);
  }

  #serve({ id, command, payload, flags }: Message): void {
    const wantsReply = (flags & FLAG_NO_REPLY) === 0;
    let reply: Uint8Array;
    try {
      if (this.#handler === undefined) throw invalid(command, 'no memory is mapped');
      reply = encodeReply(id, command, this.#handler(command, payload));
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      if (trace.vfioUser.hasSubscribers)
        trace.vfioUser.publish({ what: 'request refused', peer: this.path, text: error.message });
      reply = encodeError(id, command, error.errno);
    }
    if (!wantsReply) return;
    try {
      this.#channel.send(reply);
    } catch (error) {
      throw this.#fail(error);
    }
  }

  #end(code: number, hint: string): SysError {
    return this.#fail(new SysError({ call: 'vfio-user', target: this.path, errno: code, hint }));
  }

  /** Ends the connection; returns the error for the caller to throw. */
  #fail(error: unknown): SysError {
    const cause =
      error instanceof SysError
        ? error
        : new SysError({ call: 'vfio-user', target: this.path, errno: errno.EIO, cause: error });
    if (this.#failure === undefined) {
      this.#failure = cause;
      this.#close();
      const how = isErrno(cause, 'ECONNRESET') ? 'has disconnected' : `was given up: ${cause.message}`;
      if (trace.vfio.hasSubscribers)
        trace.vfio.publish({ what: 'peer gone', text: `vfio-user peer ${this.path} ${how}` });
      for (const callback of this.#onGone.splice(0)) callback();
    }
    return gone('vfio-user', this.path, cause);
  }

  [Symbol.dispose](): void {
    this.#failure ??= new SysError({ call: 'close', target: this.path, errno: errno.EBADF });
    this.#onGone.length = 0;
    this.#close();
  }

  #close(): void {
    this.#twin?.[Symbol.dispose]();
    this.#twin = undefined;
    this.#channel[Symbol.dispose]();
  }
}

const MAX_ERRNO = 4096;

const gone = (call: string, target: string, cause: SysError): SysError => {
  const hint = isErrno(cause, 'ECONNRESET') ? 'the server has disconnected' : (cause.hint ?? cause.message);
  return new SysError({ call, target, errno: errno.ENODEV, hint, cause });
};

/** Whether the socket is readable, or the peer has disconnected. */
export function hasNews(fd: number): boolean {
  const request = new Uint8Array(8);
  new DataView(request.buffer).setInt32(0, fd, true);
  new DataView(request.buffer).setInt16(4, POLLIN, true);
  return poll(request, 1, 0) > 0;
}

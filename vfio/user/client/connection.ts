/** A connection to a vfio-user server: questions and their answers, and the server's own requests in between. */

import { errno } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { poll } from '../../../sys/libc.js';
import { trace } from '../../../sys/trace.js';
import { connectUnix } from '../../../sys/unix-socket.js';
import { Channel, type Message } from '../channel.js';
import { encodeCommand, encodeError, encodeReply } from '../message.js';
import {
  commandName,
  DEFAULT_MAX_DATA_XFER_SIZE,
  DEFAULT_MAX_DMA_MAPS,
  DEFAULT_PGSIZES,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  MAJOR,
  MAX_MSG_FDS,
  MINOR,
  TYPE_COMMAND,
  TYPE_MASK,
  VFIO_USER_VERSION,
} from '../protocol.js';
import { type Capabilities, decodeVersion, encodeVersion, type Version } from '../version.js';

/** An answer; its payload is good until the next question, its descriptors are the asker's to close. */
export interface Answer {
  readonly payload: Uint8Array;
  readonly fds: Fd[];
}

/** Answers the server's requests. @throws SysError: its errno is the answer */
export type RequestHandler = (command: number, payload: Uint8Array) => Uint8Array;

/** How many requests of the server are served at one go, so that it cannot keep the machine from its guest. */
const MOST_REQUESTS = 256;
const POLLIN = 1;

export class Connection implements Disposable {
  readonly path: string;
  readonly capabilities: Capabilities;
  /** Minor version that both sides speak. */
  readonly minor: number;
  readonly #channel: Channel;
  readonly #timeoutMs: number;
  readonly #onGone: (() => void)[] = [];
  #handler: RequestHandler = () => {
    throw new SysError({
      call: 'request',
      target: this.path,
      errno: errno.EINVAL,
      hint: 'no memory is mapped yet',
    });
  };
  #lastId = 0;
  /** Why the connection is over. */
  #failure: SysError | undefined;

  private constructor(path: string, channel: Channel, timeoutMs: number) {
    this.path = path;
    this.#channel = channel;
    this.#timeoutMs = timeoutMs;
    channel.setTimeouts(timeoutMs, timeoutMs);
    ({ minor: this.minor, capabilities: this.capabilities } = this.#negotiate());
  }

  /**
   * Connects and agrees on versions.
   * @param timeoutMs how long the server may take for any answer
   * @throws SysError ENOENT, ECONNREFUSED, ETIMEDOUT, EPROTO, ENOTSUP, with a hint
   */
  static open(path: string, timeoutMs: number): Connection {
    const channel = new Channel(connectUnix(path, true));
    try {
      return new Connection(path, channel, timeoutMs);
    } catch (error) {
      channel[Symbol.dispose]();
      throw error;
    }
  }

  get isGone(): boolean {
    return this.#failure !== undefined;
  }

  /** For whoever waits for what the server sends unasked. */
  get fd(): number {
    return this.#channel.fd.number;
  }

  /** Who answers the server's requests from now on. */
  setHandler(handler: RequestHandler): void {
    this.#handler = handler;
  }

  /** Calls back once, when the connection is over. */
  whenGone(callback: () => void): void {
    if (this.isGone) callback();
    else this.#onGone.push(callback);
  }

  #negotiate(): Pick<Version, 'minor' | 'capabilities'> {
    const mine = {
      maxMsgFds: MAX_MSG_FDS,
      maxDataXferSize: DEFAULT_MAX_DATA_XFER_SIZE,
      maxDmaMaps: DEFAULT_MAX_DMA_MAPS,
      pgsizes: DEFAULT_PGSIZES,
      hasWriteMultiple: false,
      // Requests come between answers: a socket of their own would have to be watched during each question.
      twinSocket: undefined,
    };
    const version = encodeVersion({ major: MAJOR, minor: MINOR, capabilities: mine }, false);
    const { payload, fds } = this.ask(VFIO_USER_VERSION, version);
    for (const fd of fds) fd[Symbol.dispose]();
    const { minor, capabilities } = decodeVersion(payload);
    if (minor > MINOR)
      throw this.#end(errno.EPROTO, `the server answers version ${MAJOR}.${minor} to ${MAJOR}.${MINOR}`);
    // It may take more than it would get back in one message.
    const maxDataXferSize = Math.min(capabilities.maxDataXferSize, mine.maxDataXferSize);
    return { minor, capabilities: { ...capabilities, maxDataXferSize } };
  }

  /**
   * Sends a command and waits for its answer, serving the server's requests meanwhile.
   * @throws SysError with the server's errno; ENODEV if the server is gone, or was given up
   */
  ask(command: number, payload?: Uint8Array, fds: readonly number[] = []): Answer {
    const id = this.#send(command, 0, payload, fds);
    // One for all of it: a server that asks instead of answering gains no time by that.
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
      if ((message.flags & FLAG_ERROR) === 0) return { payload: message.payload, fds: message.fds.splice(0) };
      const code = message.errno > 0 && message.errno < MAX_ERRNO ? message.errno : errno.EINVAL;
      throw new SysError({ call: commandName(command), target: this.path, errno: code });
    }
  }

  /** Sends a command that gets no answer. @throws SysError ENODEV */
  post(command: number, payload: Uint8Array): void {
    this.#send(command, FLAG_NO_REPLY, payload, []);
  }

  /** Serves what the server sent unasked; finds out whether it is gone. Never throws. */
  serveRequests(): void {
    for (let count = 0; count < MOST_REQUESTS && !this.isGone; count++) {
      try {
        const message = this.#channel.receive(false);
        if (message === undefined) return;
        if ((message.flags & TYPE_MASK) !== TYPE_COMMAND) throw this.#end(errno.EPROTO, 'it answers unasked');
        this.#serve(message);
      } catch (error) {
        if (!this.isGone) this.#fail(error);
      }
    }
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

  /** A signal that wakes this thread for something else ends no wait. */
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

  #late(command: number): SysError {
    const hint = `no answer to ${commandName(command)} for ${this.#timeoutMs / 1000} s`;
    return this.#end(errno.ETIMEDOUT, hint);
  }

  #serve({ id, command, payload, flags }: Message): void {
    const wantsReply = (flags & FLAG_NO_REPLY) === 0;
    let reply: Uint8Array;
    try {
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

  /** The connection is over; returns what the caller is to throw. */
  #fail(error: unknown): SysError {
    const cause =
      error instanceof SysError
        ? error
        : new SysError({ call: 'vfio-user', target: this.path, errno: errno.EIO, cause: error });
    if (this.#failure === undefined) {
      this.#failure = cause;
      this.#channel[Symbol.dispose]();
      const how = isErrno(cause, 'ECONNRESET')
        ? 'has closed the connection'
        : `was given up: ${cause.message}`;
      if (trace.vfio.hasSubscribers)
        trace.vfio.publish({ what: 'peer gone', text: `vfio-user peer ${this.path} ${how}` });
      for (const callback of this.#onGone.splice(0)) callback();
    }
    return gone('vfio-user', this.path, cause);
  }

  [Symbol.dispose](): void {
    this.#failure ??= new SysError({ call: 'close', target: this.path, errno: errno.EBADF });
    this.#onGone.length = 0;
    this.#channel[Symbol.dispose]();
  }
}

const MAX_ERRNO = 4096;

const gone = (call: string, target: string, cause: SysError): SysError => {
  const hint = isErrno(cause, 'ECONNRESET')
    ? 'the server has closed the connection'
    : (cause.hint ?? cause.message);
  return new SysError({ call, target, errno: errno.ENODEV, hint, cause });
};

/** Whether something can be read, or the other end is gone. */
export function hasNews(fd: number): boolean {
  const request = new Uint8Array(8);
  new DataView(request.buffer).setInt32(0, fd, true);
  new DataView(request.buffer).setInt16(4, POLLIN, true);
  return poll(request, 1, 0) > 0;
}

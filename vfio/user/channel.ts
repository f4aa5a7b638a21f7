/** A stream of vfio-user messages over one socket, each with its descriptors. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { isForeign, setForeign } from '../../sys/foreign-fds.js';
import { MessageSocket, type ReceiveResult } from '../../sys/socket-messages.js';
import { encodeMessage, type Header } from './message.js';
import { HEADER_BYTES, MAX_MESSAGE_BYTES, MAX_MSG_FDS } from './protocol.js';

/** A received message. */
export interface Message extends Header {
  /** Valid until the next receive. */
  readonly payload: Uint8Array;
  /** Its descriptors. Remove those that you keep; the next receive closes the rest. */
  readonly fds: Fd[];
}

/** Holds a message of the largest size after part of another one. */
const BUFFER_BYTES = 2 * MAX_MESSAGE_BYTES;
/** Bytes per read: one call receives many small messages. */
const CHUNK_BYTES = 64 * 1024;
/** Large enough for any message, so that a peer can read it with a single call. */
const SEND_BUFFER_BYTES = 4 << 20;

/**
 * A read can return several messages, but Linux ends it after a message with descriptors. Descriptors therefore belong
 * to the last message that begins in the bytes read, or to the incomplete one if none begins there.
 */
export class Channel implements Disposable {
  readonly #socket: MessageSocket;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  readonly #mostFds: number;
  /** Bytes from #start to #end are received and not yet delivered. A message begins at #start. */
  #start = 0;
  #end = 0;
  /** Start of the incomplete message; #end if there is none. */
  #underWay = 0;
  /** Descriptors, by the start of their message. */
  #fds: { at: number; readonly fds: Fd[] }[] = [];
  #delivered: Fd[] = [];
  /** Why nothing more can be received. */
  #failure: SysError | undefined;

  /** @param mostFds descriptors that a message of the peer may have */
  constructor(fd: Fd, mostFds = MAX_MSG_FDS) {
    this.#mostFds = mostFds;
    this.#socket = new MessageSocket(fd, BUFFER_BYTES);
    this.#buffer = this.#socket.buffer;
    this.#view = new DataView(this.#buffer.buffer);
    if (!isForeign(fd.number)) this.#socket.setSendBuffer(SEND_BUFFER_BYTES);
  }

  get fd(): Fd {
    return this.#socket.fd;
  }

  get target(): string {
    return this.#socket.fd.target;
  }

  /** Sets the timeouts after which a receive returns undefined, and a send fails; 0 waits forever. */
  setTimeouts(receiveMs: number, sendMs: number): void {
    this.#socket.setTimeouts(receiveMs, sendMs);
  }

  /**
   * The next message; undefined if none is complete at the timeout, or if a signal interrupts the wait.
   * @param isBlocking false returns immediately
   * @param deadline a time of performance.now(), which bounds a peer that sends a message byte by byte
   * @throws SysError ECONNRESET if the peer has disconnected; EPROTO for bytes that are no message, after which the
   *   stream is out of sync
   */
  receive(isBlocking = true, deadline = Number.POSITIVE_INFINITY): Message | undefined {
    this.#dropDelivered();
    for (let reads = 0; ; reads++) {
      const message = this.#next();
      if (message !== undefined) return message;
      if (reads > 0 && performance.now() >= deadline) return undefined;
      this.#makeRoom();
      const length = Math.min(BUFFER_BYTES - this.#end, Math.max(CHUNK_BYTES, this.#missing()));
      const got = this.#read(length, isBlocking);
      if (got === 'none') return undefined;
      if (got === 'end') throw gone(this.target);
      this.#end += got.bytes;
      this.#assign(got.fds);
    }
  }

  #read(length: number, isBlocking: boolean): ReceiveResult {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return this.#socket.receive(this.#end, length, isBlocking);
    } catch (error) {
      // Whoever gets it may go on; the bytes are missing all the same.
      if (error instanceof SysError) this.#failure = error;
      throw error;
    }
  }

  /** Whether received bytes are buffered: a watch of the socket does not report them again. */
  get hasBytes(): boolean {
    return this.#end > this.#start;
  }

  #sizeAt(at: number): number {
    const size = this.#view.getUint32(at + 4, true);
    if (size >= HEADER_BYTES && size <= MAX_MESSAGE_BYTES) return size;
    const hint = `the peer announces a message of ${size} bytes; there are ${HEADER_BYTES} to ${MAX_MESSAGE_BYTES}`;
    throw new SysError({ call: 'receive', target: this.target, errno: errno.EPROTO, hint });
  }

  #missing(): number {
    return this.#end - this.#start < HEADER_BYTES
      ? HEADER_BYTES
      : this.#sizeAt(this.#start) - (this.#end - this.#start);
  }

  #next(): Message | undefined {
    const at = this.#start;
    if (this.#end - at < HEADER_BYTES) return undefined;
    const size = this.#sizeAt(at);
    if (this.#end - at < size) return undefined;
    this.#start += size;
    const view = this.#view;
    if (this.#fds[0]?.at === at) this.#delivered = (this.#fds.shift() as { fds: Fd[] }).fds;
    return {
      id: view.getUint16(at, true),
      command: view.getUint16(at + 2, true),
      size,
      flags: view.getUint32(at + 8, true),
      errno: view.getUint32(at + 12, true),
      payload: this.#buffer.subarray(at + HEADER_BYTES, at + size),
      fds: this.#delivered,
    };
  }

  /** Moves the remaining bytes to the front if the rest of the buffer could not hold the incomplete message. */
  #makeRoom(): void {
    if (this.#start !== this.#end && BUFFER_BYTES - this.#start >= MAX_MESSAGE_BYTES) return;
    this.#buffer.copyWithin(0, this.#start, this.#end);
    for (const entry of this.#fds) entry.at -= this.#start;
    this.#underWay -= this.#start;
    this.#end -= this.#start;
    this.#start = 0;
  }

  /** Assigns received descriptors to the last message that begins in the received bytes. */
  #assign(numbers: readonly number[]): void {
    const fds = numbers.map((number) => Fd.adoptForeign(number, `descriptor from ${this.target}`));
    try {
      let at = this.#underWay;
      let next = this.#endOf(at);
      while (next !== undefined && next < this.#end) {
        at = next;
        next = this.#endOf(at);
      }
      this.#underWay = next === this.#end ? next : at;
      if (fds.length === 0) return;
      const last = this.#fds.at(-1);
      if (fds.length + (last?.at === at ? last.fds.length : 0) > this.#mostFds) throw this.#tooMany();
      if (last?.at === at) last.fds.push(...fds);
      else this.#fds.push({ at, fds });
    } catch (error) {
      for (const fd of fds) fd[Symbol.dispose]();
      throw error;
    }
  }

  #tooMany(): SysError {
    const hint = `a message with more than ${this.#mostFds} descriptors`;
    return new SysError({ call: 'receive', target: this.target, errno: errno.EPROTO, hint });
  }

  /** End of the message that begins at `at`; undefined while its header is incomplete. */
  #endOf(at: number): number | undefined {
    return this.#end - at < HEADER_BYTES ? undefined : at + this.#sizeAt(at);
  }

  /**
   * Sends a message. The peer then has the descriptors' files as well. @see isForeign
   * @throws SysError ECONNRESET if the peer has disconnected; ETIMEDOUT if it does not read
   */
  send(message: Uint8Array, fds: readonly number[] = []): void {
    for (const fd of fds) setForeign(fd, true);
    this.#orGone(() => this.#socket.send(message, fds));
  }

  /**
   * Sends as much as there is room for, and returns that number of bytes; never blocks.
   * @throws SysError ECONNRESET if the peer has disconnected
   */
  sendSome(bytes: Uint8Array): number {
    return this.#orGone(() => this.#socket.sendSome(bytes));
  }

  #orGone<T>(send: () => T): T {
    try {
      return send();
    } catch (error) {
      const code = error instanceof SysError ? error.code : '';
      throw code === 'EPIPE' || code === 'ECONNRESET' ? gone(this.target) : error;
    }
  }

  sendMessage(header: Omit<Header, 'size' | 'errno'> & { errno?: number }, payload?: Uint8Array): void {
    this.send(encodeMessage(header, payload));
  }

  #dropDelivered(): void {
    for (const fd of this.#delivered.splice(0)) fd[Symbol.dispose]();
    this.#delivered = [];
  }

  [Symbol.dispose](): void {
    this.#dropDelivered();
    for (const { fds } of this.#fds.splice(0)) for (const fd of fds) fd[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
  }
}

const gone = (target: string): SysError =>
  new SysError({
    call: 'receive',
    target,
    errno: errno.ECONNRESET,
    hint: 'the peer has disconnected',
  });

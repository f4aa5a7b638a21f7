import { readSync, writevSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import type { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { copyBytes, get32, put32 } from './bytes.js';
import type { NetCounters, NetPort } from './port.js';

/** Each frame is preceded by its length: 4 bytes, big-endian. */
const LENGTH_BYTES = 4;
const ETHER_HEADER_BYTES = 14;
/** An IP packet of 65535 bytes with an Ethernet header and a VLAN tag. */
const MOST_FRAME_BYTES = 65535 + 18;
const UIO_MAXIOV = 1024;

/** The other end of a stream. */
export interface StreamPeer extends Disposable {
  /** Names the peer in errors: `passt (pid 17)`. */
  readonly name: string;
  /** Why the peer closed, if it reported a reason. Called once, before the peer is disposed. */
  lastWords(): string;
}

/**
 * Frames over a stream socket, in the format of passt and QEMU's `-netdev stream`. A frame is sent whole or not at all:
 * what the socket does not accept at once is buffered, and the port is full until it is sent. Reading `isFull` sends as
 * much as possible. Event thread only.
 */
export class StreamPort implements NetPort {
  readonly #counts = { txFrames: 0, txBytes: 0, txDropped: 0, rxFrames: 0, rxBytes: 0, rxDropped: 0 };
  readonly counters: NetCounters = this.#counts;
  readonly #socket: Fd;
  readonly #peer: StreamPeer;
  readonly #scope: Scope;
  readonly writableFd: number;
  /** Received data not yet consumed: bytes `#start` to `#end`, which begin with a length. */
  readonly #incoming = new Uint8Array(2 * (LENGTH_BYTES + MOST_FRAME_BYTES));
  #start = 0;
  #end = 0;
  /** The rest of a frame that the socket has not accepted yet. */
  readonly #unsent = new Uint8Array(LENGTH_BYTES + MOST_FRAME_BYTES);
  #unsentStart = 0;
  #unsentEnd = 0;
  readonly #length = new Uint8Array(LENGTH_BYTES);
  readonly #vector: Uint8Array[] = [];
  #failure: SysError | undefined;

  /** Takes ownership of both; the socket is non-blocking and is closed before the peer is disposed. */
  constructor(socket: Fd, peer: StreamPeer) {
    using scope = new Scope();
    this.#peer = scope.own(peer);
    this.#socket = scope.own(socket);
    this.writableFd = scope.own(socket.duplicate()).number;
    this.#scope = scope.move();
  }

  get fd(): number {
    return this.#socket.isOpen ? this.#socket.number : -1;
  }

  get isFull(): boolean {
    while (this.#unsentStart < this.#unsentEnd) {
      const sent = this.#write([this.#unsent.subarray(this.#unsentStart, this.#unsentEnd)]);
      if (sent === 0) return this.#failure === undefined;
      this.#unsentStart += sent;
    }
    return false;
  }

  transmit(parts: readonly Uint8Array[]): boolean {
    let bytes = 0;
    for (const part of parts) bytes += part.length;
    const isFrame = bytes >= ETHER_HEADER_BYTES && bytes <= MOST_FRAME_BYTES && parts.length < UIO_MAXIOV;
    if (!isFrame || this.isFull || this.#failure !== undefined || !this.#send(parts, bytes)) {
      this.#counts.txDropped++;
      return false;
    }
    this.#counts.txFrames++;
    this.#counts.txBytes += bytes;
    return true;
  }

  pending(): number {
    for (;;) {
      if (this.#failure !== undefined) return -1; // receive reports it
      const length = this.#nextLength();
      if (length > MOST_FRAME_BYTES || (length >= 0 && length < ETHER_HEADER_BYTES))
        this.#fail(errno.EPROTO, `it announced a frame of ${length} bytes`);
      else if (length > 0 && this.#end - this.#start >= LENGTH_BYTES + length) return length;
      else if (!this.#read()) return 0;
    }
  }

  receive(parts: readonly Uint8Array[]): number {
    if (!this.#socket.isOpen && this.#failure === undefined) return 0;
    const length = this.pending();
    if (this.#failure !== undefined) throw this.#failure;
    if (length === 0) return 0;
    const from = this.#start + LENGTH_BYTES;
    let copied = 0;
    for (let i = 0; i < parts.length && copied < length; i++) {
      const part = parts[i] as Uint8Array;
      const bytes = Math.min(part.length, length - copied);
      copyBytes(part, 0, this.#incoming, from + copied, bytes);
      copied += bytes;
    }
    this.#start = from + length;
    if (copied < length) {
      this.#counts.rxDropped++;
      return -1;
    }
    this.#counts.rxFrames++;
    this.#counts.rxBytes += length;
    return length;
  }

  /** Sends a frame, at least in part. Returns false if the connection fails. */
  #send(parts: readonly Uint8Array[], bytes: number): boolean {
    const vector = this.#vector;
    put32(this.#length, 0, bytes);
    vector.push(this.#length, ...parts);
    const sent = this.#write(vector);
    if (this.#failure === undefined) this.#keep(vector, sent);
    vector.length = 0;
    return this.#failure === undefined;
  }

  /** Buffers all but the first `skip` bytes of a frame with its length. */
  #keep(vector: readonly Uint8Array[], skip: number): void {
    let end = 0;
    let left = skip;
    for (const part of vector) {
      const from = Math.min(left, part.length);
      left -= from;
      copyBytes(this.#unsent, end, part, from, part.length - from);
      end += part.length - from;
    }
    this.#unsentStart = 0;
    this.#unsentEnd = end;
  }

  /** Returns the bytes that the socket accepted; 0 if it has no room. */
  #write(parts: readonly Uint8Array[]): number {
    try {
      return writevSync(this.#socket.number, parts);
    } catch (error) {
      if (!isErrno(error, 'EAGAIN')) this.#gone();
      return 0;
    }
  }

  /** The next frame's length; -1 if it has not arrived yet. */
  #nextLength(): number {
    return this.#end - this.#start < LENGTH_BYTES ? -1 : get32(this.#incoming, this.#start);
  }

  /** Reads as much as fits in the buffer. Returns false if nothing arrived. */
  #read(): boolean {
    if (this.#start > 0) {
      this.#incoming.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    try {
      const room = this.#incoming.length - this.#end;
      const count = readSync(this.#socket.number, this.#incoming, this.#end, room, null);
      this.#end += count;
      if (count === 0) this.#gone();
      return true;
    } catch (error) {
      if (isErrno(error, 'EAGAIN')) return false;
      this.#gone();
      return true;
    }
  }

  #gone(): void {
    this.#fail(errno.ECONNRESET, this.#peer.lastWords());
  }

  /** Marks the connection as failed: nothing is sent or received any more. */
  #fail(code: number, hint: string): void {
    if (this.#failure !== undefined) return;
    this.#failure = new SysError({ call: 'net', target: this.#peer.name, errno: code, hint });
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

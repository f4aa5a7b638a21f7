/** Bytes and descriptors over a unix stream socket: sendmsg(2) and recvmsg(2) with SCM_RIGHTS. */
import { writeSync } from 'node:fs';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { checked, Fd } from './fd.js';
import * as libc from './libc.js';

// struct msghdr of x86-64: name, name length, iovec, their number, control data, its length, flags.
const MSGHDR_BYTES = 56;
const IOV_AT = 16;
const IOVLEN_AT = 24;
const CONTROL_AT = 32;
const CONTROLLEN_AT = 40;
const IOVEC_AT = 64;
const CONTROL_DATA_AT = 128;
const BLOCK_BYTES = 4096;

// struct cmsghdr: length, level, type.
const CMSG_BYTES = 16;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
/** The kernel passes no more in one message. */
const SCM_MAX_FD = 253;
const CONTROL_BYTES = CMSG_BYTES + 4 * (SCM_MAX_FD + 1);

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;

const SO_SNDBUF = 7;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;

/** What one recvmsg brought. */
export interface Received {
  readonly bytes: number;
  /** Descriptors that came with it; the receiver's to close. */
  readonly fds: readonly number[];
}

/** `none`: nothing came in time, or a signal. `end`: the other end is closed. */
export type ReceiveResult = Received | 'none' | 'end';

/**
 * A connected stream socket that blocks, with time limits. One thread uses it. Disposing closes it.
 */
export class MessageSocket implements Disposable {
  readonly fd: Fd;
  /** msghdr, iovec and control data, at a fixed address. */
  readonly #block = new Uint8Array(BLOCK_BYTES);
  readonly #view = new DataView(this.#block.buffer);
  readonly #address = libc.addressOf(this.#block);
  /** Bytes are received here. */
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #bufferAddress: number;

  /** @param buffer where received bytes go: a page or more */
  constructor(fd: Fd, buffer: Uint8Array<ArrayBuffer>) {
    this.fd = fd;
    this.#buffer = buffer;
    this.#bufferAddress = libc.addressOf(buffer);
    this.#setAddress(IOV_AT, this.#address + IOVEC_AT);
    this.#setAddress(IOVLEN_AT, 1);
    this.#setAddress(CONTROL_AT, this.#address + CONTROL_DATA_AT);
    if (MSGHDR_BYTES > IOVEC_AT || CONTROL_DATA_AT + CONTROL_BYTES > BLOCK_BYTES)
      throw new RangeError('layout');
  }

  #setAddress(at: number, value: number): void {
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  /** How long a receive waits before it returns `none`, and a send before it fails; 0 is for ever. */
  setTimeouts(receiveMs: number, sendMs: number): void {
    const timeval = (ms: number): Uint8Array =>
      new Uint8Array(new BigInt64Array([BigInt(Math.floor(ms / 1000)), BigInt((ms % 1000) * 1000)]).buffer);
    for (const [option, ms] of [
      [SO_RCVTIMEO, receiveMs],
      [SO_SNDTIMEO, sendMs],
    ] as const)
      checked(libc.setsockopt(this.fd.number, SOL_SOCKET, option, timeval(ms)), 'setsockopt', this.fd.target);
  }

  /** Bytes that may be under way before a send waits; the kernel has a limit of its own. */
  setSendBuffer(bytes: number): void {
    libc.setsockopt(this.fd.number, SOL_SOCKET, SO_SNDBUF, new Uint8Array(new Int32Array([bytes]).buffer));
  }

  /**
   * Receives up to `length` bytes into the buffer at `at`. Descriptors that come are close-on-exec.
   * @throws SysError of recvmsg(2): ECONNRESET
   */
  receive(at: number, length: number, isBlocking = true): ReceiveResult {
    if (at + length > this.#buffer.length)
      throw new RangeError(`${at} + ${length} of ${this.#buffer.length}`);
    this.#setAddress(IOVEC_AT, this.#bufferAddress + at);
    this.#setAddress(IOVEC_AT + 8, length);
    this.#setAddress(CONTROLLEN_AT, CONTROL_BYTES);
    const flags = MSG_CMSG_CLOEXEC | (isBlocking ? 0 : MSG_DONTWAIT);
    const bytes = libc.recvmsg(this.fd.number, this.#address, flags);
    if (bytes === -errno.EAGAIN || bytes === -errno.EINTR) return 'none';
    checked(bytes, 'recvmsg', this.fd.target);
    const fds = this.#receivedFds();
    if (bytes > 0) return { bytes, fds };
    for (const fd of fds) Fd.adopt(fd, this.fd.target)[Symbol.dispose]();
    return 'end';
  }

  #receivedFds(): readonly number[] {
    const controlBytes = Number(this.#view.getBigUint64(CONTROLLEN_AT, true));
    if (controlBytes < CMSG_BYTES) return NO_FDS;
    const length = Number(this.#view.getBigUint64(CONTROL_DATA_AT, true));
    const [level, type] = [
      this.#view.getInt32(CONTROL_DATA_AT + 8, true),
      this.#view.getInt32(CONTROL_DATA_AT + 12, true),
    ];
    if (level !== SOL_SOCKET || type !== SCM_RIGHTS) return NO_FDS;
    return Array.from({ length: (length - CMSG_BYTES) >> 2 }, (_, i) =>
      this.#view.getInt32(CONTROL_DATA_AT + CMSG_BYTES + 4 * i, true),
    );
  }

  /**
   * Sends all of it, descriptors with the first byte.
   * @throws SysError EPIPE, ECONNRESET if the other end is closed; ETIMEDOUT if it does not read
   */
  send(bytes: Uint8Array, fds: readonly number[] = NO_FDS): void {
    let sent = fds.length === 0 ? 0 : this.#sendWithFds(bytes, fds);
    while (sent < bytes.length) sent += this.#write(bytes, sent);
  }

  /** Node's own write costs a seventh of a call through ffi-rs. */
  #write(bytes: Uint8Array, at: number): number {
    try {
      return writeSync(this.fd.number, bytes, at);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).errno ?? 0;
      if (code === -errno.EINTR) return 0;
      throw this.#sendError(-code);
    }
  }

  #sendWithFds(bytes: Uint8Array, fds: readonly number[]): number {
    // The collector may move small arrays, so it goes out from a copy that it does not move.
    const head = bytes.length >= BLOCK_BYTES ? bytes : padded(bytes);
    this.#setAddress(IOVEC_AT, libc.addressOf(head));
    this.#setAddress(IOVEC_AT + 8, bytes.length);
    const length = CMSG_BYTES + 4 * fds.length;
    this.#setAddress(CONTROL_DATA_AT, length);
    this.#view.setInt32(CONTROL_DATA_AT + 8, SOL_SOCKET, true);
    this.#view.setInt32(CONTROL_DATA_AT + 12, SCM_RIGHTS, true);
    for (const [i, fd] of fds.entries()) this.#view.setInt32(CONTROL_DATA_AT + CMSG_BYTES + 4 * i, fd, true);
    this.#setAddress(CONTROLLEN_AT, (length + 7) & ~7);
    for (;;) {
      const sent = libc.sendmsg(this.fd.number, this.#address, MSG_NOSIGNAL);
      if (sent === -errno.EINTR) continue;
      if (sent < 0) throw this.#sendError(-sent);
      return sent;
    }
  }

  #sendError(code: number): SysError {
    const isLate = code === errno.EAGAIN;
    return new SysError({
      call: 'sendmsg',
      target: this.fd.target,
      errno: isLate ? errno.ETIMEDOUT : code,
      hint: isLate ? 'the other end does not read' : undefined,
    });
  }

  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
  }
}

const NO_FDS: readonly number[] = [];

function padded(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(BLOCK_BYTES);
  copy.set(bytes);
  return copy;
}

/** Bytes and descriptors over a unix stream socket: sendmsg(2) and recvmsg(2) with SCM_RIGHTS. */
import { writeSync } from 'node:fs';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { checked, Fd } from './fd.js';
import * as libc from './libc.js';

// struct msghdr on x86-64: name, name length, iovec, iovec count, control data, its length, flags.
const MSGHDR_BYTES = 56;
const IOV_AT = 16;
const IOVLEN_AT = 24;
const CONTROL_AT = 32;
const CONTROLLEN_AT = 40;
const FLAGS_AT = 48;
const IOVEC_AT = 64;
const CONTROL_DATA_AT = 128;
const BLOCK_BYTES = 4096;

// struct cmsghdr: length, level, type.
const CMSG_BYTES = 16;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
/** The kernel's limit of descriptors per message. */
const SCM_MAX_FD = 253;
const CONTROL_BYTES = CMSG_BYTES + 4 * (SCM_MAX_FD + 1);

const MSG_CTRUNC = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;

const SO_SNDBUF = 7;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;

/** The result of one recvmsg(2). */
export interface Received {
  readonly bytes: number;
  /** Descriptors received with it; the caller must close them. */
  readonly fds: readonly number[];
}

/** `none`: nothing arrived in time, or a signal interrupted. `end`: the peer closed. */
export type ReceiveResult = Received | 'none' | 'end';

/** A connected, blocking stream socket with timeouts. Used by one thread; owns the descriptor. */
export class MessageSocket implements Disposable {
  readonly fd: Fd;
  /** msghdr, iovec and control data. */
  readonly #block = new libc.PinnedBytes(BLOCK_BYTES);
  readonly #view = new DataView(this.#block.bytes.buffer);
  readonly #buffer: libc.PinnedBytes;

  /** @param bufferBytes size of {@link buffer} */
  constructor(fd: Fd, bufferBytes: number) {
    this.fd = fd;
    this.#buffer = new libc.PinnedBytes(bufferBytes);
    this.#setAddress(IOV_AT, this.#block.address + IOVEC_AT);
    this.#setAddress(IOVLEN_AT, 1);
    this.#setAddress(CONTROL_AT, this.#block.address + CONTROL_DATA_AT);
    if (MSGHDR_BYTES > IOVEC_AT || CONTROL_DATA_AT + CONTROL_BYTES > BLOCK_BYTES)
      throw new RangeError('layout');
  }

  /** Receives the bytes. */
  get buffer(): Uint8Array<ArrayBuffer> {
    return this.#buffer.bytes;
  }

  #setAddress(at: number, value: number): void {
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  /** How long in milliseconds a receive blocks before it returns `none`, and a send before it fails; 0 is no limit. */
  setTimeouts(receiveMs: number, sendMs: number): void {
    const timeval = (ms: number): Uint8Array =>
      new Uint8Array(new BigInt64Array([BigInt(Math.floor(ms / 1000)), BigInt((ms % 1000) * 1000)]).buffer);
    for (const [option, ms] of [
      [SO_RCVTIMEO, receiveMs],
      [SO_SNDTIMEO, sendMs],
    ] as const)
      checked(libc.setsockopt(this.fd.number, SOL_SOCKET, option, timeval(ms)), 'setsockopt', this.fd.target);
  }

  /** Requests a send buffer size in bytes; the kernel caps it. */
  setSendBuffer(bytes: number): void {
    libc.setsockopt(this.fd.number, SOL_SOCKET, SO_SNDBUF, new Uint8Array(new Int32Array([bytes]).buffer));
  }

  /**
   * Receives up to `length` bytes into the buffer at `at`. Descriptors are close-on-exec.
   * @throws SysError from recvmsg(2): ECONNRESET; EMFILE if descriptors are missing, after which the stream is of no use
   */
  receive(at: number, length: number, isBlocking = true): ReceiveResult {
    if (at + length > this.buffer.length) throw new RangeError(`${at} + ${length} of ${this.buffer.length}`);
    const { number } = this.fd;
    this.#setAddress(IOVEC_AT, this.#buffer.address + at);
    this.#setAddress(IOVEC_AT + 8, length);
    this.#setAddress(CONTROLLEN_AT, CONTROL_BYTES);
    const flags = MSG_CMSG_CLOEXEC | (isBlocking ? 0 : MSG_DONTWAIT);
    const bytes = libc.recvmsg(number, this.#block.address, flags);
    if (bytes === -errno.EAGAIN || bytes === -errno.EINTR) return 'none';
    checked(bytes, 'recvmsg', this.fd.target);
    const fds = this.#receivedFds();
    if ((this.#view.getInt32(FLAGS_AT, true) & MSG_CTRUNC) !== 0) throw this.#truncated(fds);
    if (bytes > 0) return { bytes, fds };
    for (const fd of fds) Fd.adopt(fd, this.fd.target)[Symbol.dispose]();
    return 'end';
  }

  /** The kernel has dropped descriptors: with those that are missing, a message would mean something else. */
  #truncated(fds: readonly number[]): SysError {
    for (const fd of fds) Fd.adopt(fd, this.fd.target)[Symbol.dispose]();
    const hint = 'more descriptors came than this process may have (ulimit -n)';
    return new SysError({ call: 'recvmsg', target: this.fd.target, errno: errno.EMFILE, hint });
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
   * Sends all of `bytes`; descriptors go with the first byte.
   * @throws SysError EPIPE or ECONNRESET if the peer closed; ETIMEDOUT if it does not read
   */
  send(bytes: Uint8Array, fds: readonly number[] = NO_FDS): void {
    let sent = fds.length === 0 ? 0 : this.#sendWithFds(bytes, fds);
    while (sent < bytes.length) sent += this.#write(bytes, sent);
  }

  /** Node's write takes a seventh of the time of a call through ffi-rs. */
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
    const length = CMSG_BYTES + 4 * fds.length;
    this.#setAddress(CONTROL_DATA_AT, length);
    this.#view.setInt32(CONTROL_DATA_AT + 8, SOL_SOCKET, true);
    this.#view.setInt32(CONTROL_DATA_AT + 12, SCM_RIGHTS, true);
    for (const [i, fd] of fds.entries()) this.#view.setInt32(CONTROL_DATA_AT + CMSG_BYTES + 4 * i, fd, true);
    this.#setAddress(CONTROLLEN_AT, (length + 7) & ~7);
    return libc.withAddress(bytes, (address) => {
      this.#setAddress(IOVEC_AT, address);
      this.#setAddress(IOVEC_AT + 8, bytes.length);
      for (;;) {
        const sent = libc.sendmsg(this.fd.number, this.#block.address, MSG_NOSIGNAL);
        if (sent === -errno.EINTR) continue;
        if (sent < 0) throw this.#sendError(-sent);
        return sent;
      }
    });
  }

  /**
   * Sends as much as there is room for, and returns that number of bytes. Never blocks, even if another process has the socket
   * and changes its flags and timeouts.
   * @throws SysError EPIPE or ECONNRESET if the peer closed; ENOTSOCK
   */
  sendSome(bytes: Uint8Array): number {
    this.#setAddress(CONTROLLEN_AT, 0);
    return libc.withAddress(bytes, (address) => {
      this.#setAddress(IOVEC_AT, address);
      this.#setAddress(IOVEC_AT + 8, bytes.length);
      const sent = libc.sendmsg(this.fd.number, this.#block.address, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent === -errno.EAGAIN || sent === -errno.EINTR) return 0;
      if (sent < 0) throw this.#sendError(-sent);
      return sent;
    });
  }

  #sendError(code: number): SysError {
    const isLate = code === errno.EAGAIN;
    return new SysError({
      call: 'sendmsg',
      target: this.fd.target,
      errno: isLate ? errno.ETIMEDOUT : code,
      hint: isLate ? 'the peer does not read' : undefined,
    });
  }

  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
    this.#block[Symbol.dispose]();
    this.#buffer[Symbol.dispose]();
  }
}

const NO_FDS: readonly number[] = [];

/**
 * Signals eventfds from inside the kernel, which never waits: asynchronous I/O signals an eventfd when it completes
 * (IOCB_FLAG_RESFD). write(2) waits while the counter is full unless O_NONBLOCK is set, RWF_NOWAIT is for reading
 * eventfds only, and io_uring would write from a thread of the kernel's that waits just so.
 */
import { errno } from './errno.js';
import { Fd } from './fd.js';
import * as libc from './libc.js';
import { MemoryView } from './mapping.js';

// System calls of x86-64, for which glibc has no functions.
const SYS_io_setup = 206;
const SYS_io_destroy = 207;
const SYS_io_submit = 209;

// struct iocb: data, key, flags, opcode, priority, descriptor, buffer, bytes, offset, reserved, flags, eventfd.
const IOCB_BYTES = 64;
const OPCODE_AT = 16;
const FILDES_AT = 20;
const FLAGS_AT = 56;
const RESFD_AT = 60;
const IOCB_CMD_PREAD = 0;
const IOCB_FLAG_RESFD = 1;
/** Where the array of one iocb is, and the context. */
const ARRAY_AT = IOCB_BYTES;
const CONTEXT_AT = ARRAY_AT + 8;
const BLOCK_BYTES = CONTEXT_AT + 8;

// struct aio_ring, which the kernel maps: id, number, head, tail, magic, features.
const HEAD = 2;
const TAIL = 3;
const MAGIC = 4;
const INCOMPATIBLE = 6;
const RING_BYTES = 32;
const AIO_RING_MAGIC = 0xa10a_10a1;

/** Used by the thread that opened it, until that thread ends. */
export class KernelSignals {
  readonly #block: libc.PinnedBytes;
  readonly #view: DataView;
  readonly #context: number;
  readonly #ring: Uint32Array;
  /** Whether it has signalled an eventfd, so that EINVAL means that a descriptor is none of one. */
  #isProven = false;

  private constructor(block: libc.PinnedBytes) {
    this.#block = block;
    this.#view = new DataView(block.bytes.buffer);
    this.#context = Number(this.#view.getBigUint64(CONTEXT_AT, true));
    const bytes = new MemoryView(this.#context, RING_BYTES).slice(0, RING_BYTES);
    this.#ring = new Uint32Array(bytes.buffer, bytes.byteOffset, RING_BYTES / 4);
    this.#view.setUint16(OPCODE_AT, IOCB_CMD_PREAD, true);
    this.#view.setUint32(FLAGS_AT, IOCB_FLAG_RESFD, true);
    this.#view.setBigUint64(ARRAY_AT, BigInt(block.address), true);
    process.once('exit', () => libc.syscall(SYS_io_destroy, this.#context, 0, 0));
  }

  /** Undefined if the kernel cannot: no AIO, too much of it in use (fs.aio-max-nr), or eventfds of before Linux 5.8. */
  static open(): KernelSignals | undefined {
    const block = new libc.PinnedBytes(BLOCK_BYTES);
    if (libc.syscall(SYS_io_setup, 1, block.address + CONTEXT_AT, 0) < 0) {
      block[Symbol.dispose]();
      return undefined;
    }
    const signals = new KernelSignals(block);
    return signals.#works ? signals : undefined;
  }

  get #works(): boolean {
    // Whether this process may take events off the ring itself, as libaio does.
    if (this.#ring[MAGIC] !== AIO_RING_MAGIC || this.#ring[INCOMPATIBLE] !== 0) return false;
    using probe = Fd.eventfd('probe');
    this.#isProven = this.signal(probe.number);
    return this.#isProven;
  }

  /**
   * Adds 1 to an eventfd whose counter is not full.
   * @returns false if the kernel cannot; it does nothing for a closed descriptor, or one of something else
   */
  signal(fd: number): boolean {
    // Otherwise the ring would be full at some time.
    Atomics.store(this.#ring, HEAD, Atomics.load(this.#ring, TAIL));
    // A read of 0 bytes: it fails, which completes it.
    this.#view.setUint32(FILDES_AT, fd, true);
    this.#view.setUint32(RESFD_AT, fd, true);
    const submitted = libc.syscall(SYS_io_submit, this.#context, 1, this.#block.address + ARRAY_AT);
    if (submitted === 1) return true;
    return this.#isProven && (submitted === -errno.EINVAL || submitted === -errno.EBADF);
  }
}

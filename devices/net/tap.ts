import { closeSync, constants, fstatSync, openSync, readvSync, writevSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import * as libc from '../../sys/libc.js';
import { SIZEOF_VIRTIO_NET_HDR_V1 } from './offloads.js';
import type { NetBackend, NetCounters, NetOffloads, NetPair, NetPort } from './port.js';
import {
  attachQueue,
  HOW_TO_ADD_QUEUES,
  hasHeaderSupport,
  IFF_MULTI_QUEUE,
  IFF_NO_PI,
  IFF_TAP,
  IFF_VNET_HDR,
  IFNAMSIZ,
  SIZEOF_IFREQ,
  setOffloads,
  setUpTap,
  type TapSystem,
  TUNGETIFF,
  TUNSETIFF,
  TUNSETIFF_QUEUES,
  tapIoctl,
} from './tap-setup.js';

const UIO_MAXIOV = 1024;

const TUN_PATH = '/dev/net/tun';
const OPEN_HINT = 'load the driver (modprobe tun), and give this user read and write access to the file';

/** `TUN_MINOR` of linux/miscdevice.h, whose major is 10; the number as stat(2) has it. */
const TUN_RDEV = (10 << 8) | 200;
const HOW_TO_OPEN =
  'it must be /dev/net/tun after TUNSETIFF with IFF_TAP | IFF_NO_PI (and IFF_VNET_HDR, for offloads)';
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;

/** The system calls of this process. */
export const linuxTap: TapSystem = {
  open: (path, flags) => openSync(path, flags),
  close: (fd) => closeSync(fd),
  ioctl: (fd, request, argument) =>
    typeof argument === 'number'
      ? libc.ioctlValue(fd, request, argument)
      : libc.ioctlPtr(fd, request, argument),
  writev: (fd, parts) => writevSync(fd, parts),
  readv: (fd, parts) => readvSync(fd, parts),
  deviceOf(fd) {
    const stats = fstatSync(fd);
    return stats.isCharacterDevice() ? stats.rdev : 0;
  },
  fcntl: (fd, command, value) => libc.fcntl(fd, command, value),
};

/** Descriptors that ports of this thread have or were given: one that is given twice would share its frames. */
const busy = new Set<number>();

/** What the frames of a tap have, and whose it is. */
interface TapKind {
  /** The offloads that it could have; undefined if its frames have no headers. */
  readonly offloads: number | undefined;
  /** The descriptor that the port's duplicates. */
  readonly given?: number;
  /** Of an interface with several queues. */
  readonly pair?: NetPair | undefined;
}

class Tap implements NetPort {
  readonly offloads?: NetOffloads;
  readonly setActive?: (isActive: boolean) => boolean;
  readonly #headerBytes: number;
  readonly #counts = { txFrames: 0, txBytes: 0, txDropped: 0, rxFrames: 0, rxBytes: 0, rxDropped: 0 };
  readonly counters: NetCounters = this.#counts;
  readonly #system: TapSystem;
  readonly #name: string;
  readonly #given: number | undefined;
  #fd: number;
  #accepted = 0;
  #isAttached = true;
  /**
   * The guest's parts plus some bytes, which are written only if a frame is too long for them: Linux refuses (EINVAL) a read
   * with less room than a header.
   */
  readonly #vector: Uint8Array[] = [];
  readonly #overflow = new Uint8Array(SIZEOF_VIRTIO_NET_HDR_V1 + 1);

  constructor(system: TapSystem, name: string, fd: number, { offloads, given, pair }: TapKind) {
    this.#system = system;
    this.#name = name;
    this.#fd = fd;
    this.#given = given;
    this.#headerBytes = offloads === undefined ? 0 : SIZEOF_VIRTIO_NET_HDR_V1;
    const isFirst = pair === undefined || pair.index === 0;
    // They are the interface's: the first queue sets them for all.
    if (offloads !== undefined)
      this.offloads = { offered: offloads, accept: (accepted) => isFirst && this.#accept(accepted) };
    if (!isFirst) {
      attachQueue(system, name, fd, false);
      this.#isAttached = false;
      this.setActive = (isActive) => this.#attach(isActive);
    }
    busy.add(fd);
    if (given !== undefined) busy.add(given);
  }

  get fd(): number {
    return this.#fd;
  }

  transmit(parts: readonly Uint8Array[]): boolean {
    const bytes = this.#write(parts);
    if (bytes === 0) {
      this.#counts.txDropped++;
      return false;
    }
    this.#counts.txFrames++;
    this.#counts.txBytes += bytes - this.#headerBytes;
    return true;
  }

  pending(): number {
    return this.#fd < 0 ? 0 : -1;
  }

  receive(parts: readonly Uint8Array[]): number {
    if (this.#fd < 0) return 0;
    const vector = this.#vector;
    let room = 0;
    for (let i = 0; i < parts.length && i < UIO_MAXIOV - 1; i++) {
      vector.push(parts[i]!);
      room += parts[i]!.length;
    }
    vector.push(this.#overflow);
    const bytes = this.#read(vector);
    while (vector.length > 0) vector.pop(); // keeps its memory
    if (bytes > room) {
      this.#counts.rxDropped++;
      return -1;
    }
    if (bytes > 0) {
      this.#counts.rxFrames++;
      this.#counts.rxBytes += bytes - this.#headerBytes;
    }
    return bytes;
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    // Its giver has it as it was.
    if (this.#given !== undefined) this.#attach(true);
    const fd = this.#fd;
    this.#fd = -1;
    busy.delete(fd);
    if (this.#given !== undefined) busy.delete(this.#given);
    this.#system.close(fd);
  }

  #attach(isAttached: boolean): boolean {
    if (isAttached === this.#isAttached) return true;
    try {
      attachQueue(this.#system, this.#name, this.#fd, isAttached);
    } catch {
      return false; // the interface is gone, as receive() of the first queue reports
    }
    this.#isAttached = isAttached;
    return true;
  }

  /** A tap that is gone keeps its offloads: receive() reports it. */
  #accept(offloads: number): void {
    if (offloads === this.#accepted || this.#fd < 0) return;
    if (setOffloads(this.#system, this.#fd, offloads)) this.#accepted = offloads;
  }

  /**
   * Returns the bytes written; 0 if the frame was lost: incomplete header (EINVAL), interface down (EIO) or queue full
   * (EAGAIN). A vector too long for one call would be sent as two frames.
   */
  #write(parts: readonly Uint8Array[]): number {
    if (this.#fd < 0 || parts.length > UIO_MAXIOV) return 0;
    try {
      return this.#system.writev(this.#fd, parts);
    } catch {
      return 0;
    }
  }

  #read(parts: readonly Uint8Array[]): number {
    try {
      return this.#system.readv(this.#fd, parts);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return 0;
      throw fromNodeError(error, 'readv', `tap ${this.#name}`, 'the interface was removed');
    }
  }
}

const FD_PREFIX = 'fd=';
const STDERR = 2;

/** Descriptors that an address names, `fd=3` or `fd=3:4`; undefined if it names none. */
function descriptorsOf(address: string): number[] | undefined {
  const [, numbers] = /^fd=(\d{1,9}(?::\d{1,9})*)$/.exec(address) ?? [];
  return numbers?.split(':').map(Number);
}

function descriptorProblem(address: string, backend: string, pairs: number): string | undefined {
  const fds = descriptorsOf(address);
  if (fds === undefined)
    return `${JSON.stringify(address.slice(FD_PREFIX.length))} is not the number of a descriptor: ${backend}:fd=N`;
  const standard = fds.find((fd) => fd <= STDERR);
  if (standard !== undefined)
    return `descriptor ${standard} is a standard stream: a tap has another, ${backend}:fd=N`;
  if (new Set(fds).size < fds.length) return `a descriptor is given twice: ${backend}:${address}`;
  if (fds.length === pairs) return undefined;
  return fds.length > 1
    ? `${fds.length} descriptors need as many queue pairs: queues=${fds.length}`
    : `${pairs} queue pairs need as many descriptors: ${backend}:fd=N:M, where 1 is given`;
}

/**
 * Rejects what the kernel's dev_valid_name() rejects, and `%`, which TUNSETIFF would expand to a free number.
 * @param backend name of the back-end, for messages
 * @param pairs queue pairs, each of which has a descriptor of its own
 */
export function tapProblem(name: string, backend = 'tap', pairs = 1): string | undefined {
  if (name === '') return `a tap needs its interface name: ${backend}:NAME`;
  if (name.startsWith(FD_PREFIX)) return descriptorProblem(name, backend, pairs);
  if (name.length >= IFNAMSIZ)
    return `interface name ${JSON.stringify(name)} is longer than ${IFNAMSIZ - 1} characters`;
  if (name === '.' || name === '..' || !/^[!-~]+$/.test(name) || /[/:%]/.test(name)) {
    return `interface name ${JSON.stringify(name)} has a character or form that Linux does not allow`;
  }
  return undefined;
}

function openTap(system: TapSystem, name: string, pair?: NetPair): NetPort {
  const problem = tapProblem(name, undefined, pair?.count);
  if (problem !== undefined) throw new TypeError(problem);
  const given = descriptorsOf(name);
  if (given !== undefined) return openGiven(system, given, pair);
  let fd: number;
  try {
    fd = system.open(TUN_PATH, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    throw fromNodeError(error, 'open', `${TUN_PATH} for tap ${name}`, OPEN_HINT);
  }
  const ifreq = new Uint8Array(SIZEOF_IFREQ);
  ifreq.set(Buffer.from(name, 'latin1'));
  const hasHeaders = hasHeaderSupport(system, fd);
  const flags = IFF_TAP | IFF_NO_PI | (hasHeaders ? IFF_VNET_HDR : 0) | (pair ? IFF_MULTI_QUEUE : 0);
  new DataView(ifreq.buffer).setUint16(IFNAMSIZ, flags, true);
  try {
    tapIoctl(system, name, fd, pair ? TUNSETIFF_QUEUES : TUNSETIFF, ifreq);
    const offloads = setUpTap(system, name, fd, hasHeaders);
    return new Tap(system, name, fd, { offloads: hasHeaders ? offloads : undefined, pair });
  } catch (error) {
    system.close(fd);
    throw error;
  }
}

/** Name and flags of a descriptor's interface. @throws SysError naming the descriptor */
function interfaceOf(system: TapSystem, fd: number): { readonly name: string; readonly flags: number } {
  const ifreq = new Uint8Array(SIZEOF_IFREQ);
  tapIoctl(system, `fd ${fd}`, fd, TUNGETIFF, ifreq);
  const name = Buffer.from(ifreq.subarray(0, IFNAMSIZ)).toString('latin1').replace(/\0.*$/s, '');
  return { name, flags: new DataView(ifreq.buffer).getUint16(IFNAMSIZ, true) };
}

/**
 * @param descriptors one for each queue pair
 * @throws SysError naming the descriptor: EBADF, EINVAL if it is no tap or has packet information, or is not the queue that it
 *   should be, EBUSY if another NIC has it
 */
function openGiven(system: TapSystem, descriptors: readonly number[], pair?: NetPair): NetPort {
  const given = descriptors[pair?.index ?? 0] as number;
  const name = `fd ${given}`;
  const target = `tap ${name}`;
  const refuse = (code: number, hint: string) => new SysError({ call: 'open', target, errno: code, hint });
  if (busy.has(given)) throw refuse(errno.EBUSY, 'a NIC of this process has this descriptor already');
  let device: number;
  try {
    device = system.deviceOf(given);
  } catch (error) {
    throw fromNodeError(error, 'fstat', target, 'the parent process has to leave it open (no close-on-exec)');
  }
  // First: other devices may have another meaning for the same ioctls.
  if (device !== TUN_RDEV) throw refuse(errno.EINVAL, `this descriptor is no tap: ${HOW_TO_OPEN}`);
  const { name: interfaceName, flags } = interfaceOf(system, given);
  if ((flags & IFF_TAP) === 0) throw refuse(errno.EINVAL, `it is a tun, without Ethernet: ${HOW_TO_OPEN}`);
  if ((flags & IFF_NO_PI) === 0)
    throw refuse(errno.EINVAL, `its frames have packet information (no IFF_NO_PI): ${HOW_TO_OPEN}`);
  if (pair !== undefined && (flags & IFF_MULTI_QUEUE) === 0)
    throw refuse(errno.EINVAL, `it is a tap of one queue (no IFF_MULTI_QUEUE): ${HOW_TO_ADD_QUEUES}`);
  if (pair !== undefined && pair.index > 0) {
    const { name: first } = interfaceOf(system, descriptors[0] as number);
    if (first !== interfaceName)
      throw refuse(
        errno.EINVAL,
        `it is a queue of ${interfaceName}, and the first descriptor one of ${first}`,
      );
  }
  const hasHeaders = (flags & IFF_VNET_HDR) !== 0;
  const fcntl = (of: number, command: number, value: number): number => {
    const result = system.fcntl(of, command, value);
    if (result < 0) throw new SysError({ call: 'fcntl', target, errno: -result });
    return result;
  };
  // A duplicate, so that whoever gave the descriptor keeps it, and the machine can open it again after a reset.
  const fd = fcntl(given, F_DUPFD_CLOEXEC, STDERR + 1);
  try {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | constants.O_NONBLOCK);
    const offloads = setUpTap(system, name, fd, hasHeaders);
    return new Tap(system, name, fd, { offloads: hasHeaders ? offloads : undefined, given, pair });
  } catch (error) {
    system.close(fd);
    throw error;
  }
}

/** The tap back-end over the given system calls. */
export function tapOver(system: TapSystem): NetBackend {
  return {
    name: 'tap',
    validate: (address, pairs) => tapProblem(address, undefined, pairs),
    open: (address) => openTap(system, address),
    openPair: (address, pair) => openTap(system, address, pair),
    descriptors: (address) => descriptorsOf(address) ?? [],
  };
}

/**
 * Back-end `tap:NAME` or `tap:fd=N`: a tap interface of the host.
 *
 * By name, it uses an existing one, without what its last user left (offloads,
 * header size, filters, size of the send buffer); with CAP_NET_ADMIN, creates a
 * missing one and removes it with the port. Addresses, bridge and link state are up to the administrator: while the
 * link is down, frames are dropped. An empty receive() costs an exception inside Node (5 us): call it only when the fd
 * is readable. Its offloads are those of the kernel: checksums, TSO, and USO from Linux 6.2. Opening throws SysError EPERM, EBUSY or EINVAL from TUNSETIFF; ENOENT, ENODEV or EACCES from open.
 *
 * By descriptor, it uses a queue that another process has opened and attached (TUNSETIFF), and needs no right itself. The
 * descriptor stays its giver's: the port uses a duplicate, makes the file non-blocking, and leaves N open when it closes.
 * It has offloads if TUNSETIFF had IFF_VNET_HDR. Opening throws SysError EBADF; EINVAL for what is no tap, or one whose frames
 * have packet information; EBUSY for one in use here.
 *
 * Of a NIC with several queue pairs, each has a queue of the interface, which needs IFF_MULTI_QUEUE: by name, `ip tuntap add ...
 * multi_queue`, or by one descriptor each, `tap:fd=N:M`. The kernel sends the frames of a flow to the queue by which the guest
 * has sent its own last.
 * @see Documentation/networking/tuntap.rst in the Linux source
 */
export const tap: NetBackend = tapOver(linuxTap);

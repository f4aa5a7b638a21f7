import { constants, readlinkSync } from 'node:fs';
import { errno } from '../../../sys/errno.js';
import { drainEventfd, signalEventfd } from '../../../sys/eventfd.js';
import { Fd } from '../../../sys/fd.js';
import { memoryAt } from '../../../sys/libc.js';
import type { TapSystem } from '../tap-setup.js';
import type { VhostSystem } from '../vhost-net.js';

const VHOST_FD = 1_000_000;
const O_ACCMODE = 3;
const TUN_F_ALL = 0x67;
const IFF_VNET_HDR = 0x4000;
const HEADER_BYTES = 12;
const VRING_DESC_F_NEXT = 1;
const VRING_DESC_F_WRITE = 2;
const VRING_DESC_F_INDIRECT = 4;
const VIRTIO_RING_F_EVENT_IDX = 1n << 29n;
const VHOST_F_LOG_ALL = 1n << 26n;
const LOG_PAGE = 4096;

/** Numbers of linux/vhost.h and linux/if_tun.h, written from the header once more. */
const TUNGETIFF = 0x8004_54d2;
const TUNGETFEATURES = 0x8004_54cf;
const TUNSETOFFLOAD = 0x4004_54d0;
const TUNSETQUEUE = 0x4004_54d9;
const IFF_ATTACH_QUEUE = 0x0200;
const REQUESTS = new Map([
  [0x8008_af00, 'GET_FEATURES'],
  [0x4008_af00, 'SET_FEATURES'],
  [0x0000_af01, 'SET_OWNER'],
  [0x4008_af03, 'SET_MEM_TABLE'],
  [0x4008_af04, 'SET_LOG_BASE'],
  [0x4008_af10, 'SET_VRING_NUM'],
  [0x4028_af11, 'SET_VRING_ADDR'],
  [0x4008_af12, 'SET_VRING_BASE'],
  [0xc008_af12, 'GET_VRING_BASE'],
  [0x4008_af20, 'SET_VRING_KICK'],
  [0x4008_af21, 'SET_VRING_CALL'],
  [0x4008_af22, 'SET_VRING_ERR'],
  [0x4008_af30, 'NET_SET_BACKEND'],
]);

interface Region {
  readonly iova: number;
  readonly bytes: number;
  readonly address: number;
}

class Vring {
  num = 0;
  desc = 0;
  avail = 0;
  used = 0;
  lastAvail = 0;
  usedIdx = 0;
  kick = -1;
  call = -1;
  err = -1;
  isOn = false;
  /** Where writes to the used ring are logged; undefined if they are not. */
  logAddress: number | undefined;
}

const failure = (code: keyof typeof errno): Error =>
  Object.assign(new Error(code), { code, errno: -errno[code] });

/**
 * A kernel with one tap and vhost-net, as drivers/vhost has it: it checks the order and the arguments of each call, and
 * {@link work} does what its thread would, through the addresses that it was given. Its tap is an eventfd.
 */
export class FakeVhostKernel implements TapSystem, VhostSystem, Disposable {
  /** Names of vhost's requests, in order, with their arguments where these are numbers. */
  readonly calls: string[] = [];
  /** Frames with headers that guests have sent. */
  readonly sent: Uint8Array[] = [];
  /** Frames with headers for guests. */
  readonly toGuest: Uint8Array[] = [];
  /** Error of open(2) of vhost-net. */
  openError: keyof typeof errno | undefined;
  features =
    (1n << 15n) |
    (1n << 24n) |
    VHOST_F_LOG_ALL |
    (1n << 27n) |
    (1n << 28n) |
    (1n << 29n) |
    (1n << 32n) |
    (1n << 33n);
  /** Of TUNGETFEATURES. */
  tunFeatures = 0x1002 | IFF_VNET_HDR;
  mostRegions = '64\n';
  /** By the request's name: the errno with which it fails from now on. */
  readonly refused = new Map<string, keyof typeof errno>();
  isTapGone = false;
  /** Whether the tap's queue is attached to its interface. */
  isAttached = true;
  /** Offloads that the tap was last set to. */
  offloads = 0;
  accepted = 0n;
  regions: readonly Region[] = [];
  readonly rings: readonly Vring[] = [new Vring(), new Vring()];
  logBase = 0;
  /** Whether marks are set by {@link mark}, as a thread that is between a write and its mark. */
  isSlowToMark = false;
  readonly #marks: number[] = [];
  #tap: Fd | undefined;
  #hasOwner = false;
  #isOpen = false;
  /** Frames that this process has moved itself, by system calls. */
  readonly moved = { sent: 0, received: 0 };

  /** What is open. */
  get files(): string[] {
    return [...(this.#tap === undefined ? [] : ['tap']), ...(this.#isOpen ? ['vhost-net'] : [])];
  }

  get running(): number[] {
    return this.rings.flatMap(({ isOn }, i) => (isOn ? [i] : []));
  }

  open(path: string, flags: number): number {
    if ((flags & O_ACCMODE) !== constants.O_RDWR) throw failure('EINVAL');
    if (path === '/dev/net/tun') {
      this.#tap = Fd.eventfd('fake tap');
      return this.#tap.number;
    }
    if (path !== '/dev/vhost-net') throw failure('ENOENT');
    if (this.openError !== undefined) throw failure(this.openError);
    this.#isOpen = true;
    return VHOST_FD;
  }

  close(fd: number): void {
    if (fd === VHOST_FD) {
      if (!this.#isOpen) throw failure('EBADF');
      this.#isOpen = false;
      this.mark();
      this.logBase = 0;
      this.accepted = 0n;
      this.regions = [];
      for (const ring of this.rings) Object.assign(ring, new Vring());
      return;
    }
    if (this.#isOpen) throw new Error('the tap is closed before vhost-net, which uses it');
    this.#tap?.[Symbol.dispose]();
    this.#tap = undefined;
  }

  readText(path: string): string {
    if (path !== '/sys/module/vhost/parameters/max_mem_regions') throw failure('ENOENT');
    return this.mostRegions;
  }

  writev(_fd: number, parts: readonly Uint8Array[]): number {
    const frame = Uint8Array.from(Buffer.concat(parts));
    this.moved.sent++;
    this.sent.push(frame);
    return frame.length;
  }

  readv(fd: number, parts: readonly Uint8Array[]): number {
    if (this.isTapGone) throw failure('EBADFD');
    const frame = this.toGuest.shift();
    if (frame === undefined) {
      drainEventfd(fd);
      throw failure('EAGAIN');
    }
    this.moved.received++;
    let done = 0;
    for (const part of parts) {
      const piece = frame.subarray(done, done + part.length);
      part.set(piece);
      done += piece.length;
    }
    return done;
  }

  deviceOf(): number {
    return 10 * 256 + 200;
  }

  fcntl(): number {
    return -errno.EINVAL;
  }

  /** A frame arrives at the tap. */
  deliver(frame: Uint8Array): void {
    const whole = new Uint8Array(HEADER_BYTES + frame.length);
    whole.set(frame, HEADER_BYTES);
    this.toGuest.push(whole);
    if (this.#tap !== undefined) signalEventfd(this.#tap.number);
  }

  ioctl(fd: number, request: number, argument: Uint8Array | number): number {
    if (fd !== VHOST_FD) return this.#tapIoctl(request, argument);
    const name = REQUESTS.get(request);
    if (name === undefined) return -errno.ENOTTY;
    if (!this.#isOpen) return -errno.EBADF;
    const refused = this.refused.get(name);
    if (refused !== undefined) {
      this.calls.push(`${name} ${refused}`);
      return -errno[refused];
    }
    return this.#vhostIoctl(name, argument);
  }

  #tapIoctl(request: number, argument: Uint8Array | number): number {
    if (this.isTapGone) return -errno.EBADFD;
    if (request === TUNSETOFFLOAD) {
      if (((argument as number) & ~TUN_F_ALL) !== 0) return -errno.EINVAL;
      this.offloads = argument as number;
    }
    if (request === TUNSETQUEUE) {
      const isAttached = viewOf(argument).getUint16(16, true) === IFF_ATTACH_QUEUE;
      if (isAttached === this.isAttached) return -errno.EINVAL;
      // It would drop what it has taken.
      if (this.running.length > 0) throw new Error('a queue is detached while vhost-net runs');
      this.isAttached = isAttached;
    }
    if (request === TUNGETFEATURES) viewOf(argument).setUint32(0, this.tunFeatures, true);
    if (request === TUNGETIFF) viewOf(argument).setUint16(16, 0x1002, true);
    return 0;
  }

  #vhostIoctl(name: string, argument: Uint8Array | number): number {
    if (name === 'SET_OWNER') {
      this.calls.push(name);
      if (this.#hasOwner) return -errno.EBUSY;
      this.#hasOwner = true;
      return 0;
    }
    const view = viewOf(argument);
    if (name === 'GET_FEATURES') {
      view.setBigUint64(0, this.features, true);
      return 0;
    }
    if (!this.#hasOwner) return -errno.EPERM;
    // What follows has the rings' locks, which the thread has from a write to its mark.
    this.mark();
    if (name === 'SET_FEATURES') {
      const features = view.getBigUint64(0, true);
      this.calls.push(`${name} 0x${features.toString(16)}`);
      if ((features & ~this.features) !== 0n) return -errno.EOPNOTSUPP;
      this.accepted = features;
      return 0;
    }
    if (name === 'SET_LOG_BASE') {
      this.logBase = Number(view.getBigUint64(0, true));
      this.calls.push(name);
      return 0;
    }
    if (name === 'SET_MEM_TABLE') return this.#setMemory(view);
    const index = view.getUint32(0, true);
    const ring = this.rings[index];
    if (ring === undefined) return -errno.ENOBUFS;
    return this.#ringIoctl(name, index, ring, view);
  }

  #setMemory(view: DataView): number {
    const count = view.getUint32(0, true);
    this.calls.push(`SET_MEM_TABLE ${count}`);
    if (view.getUint32(4, true) !== 0) return -errno.EOPNOTSUPP;
    if (count > Number(this.mostRegions)) return -errno.E2BIG;
    const number = (at: number) => Number(view.getBigUint64(at, true));
    this.regions = Array.from({ length: count }, (_, i) => {
      const at = 8 + 32 * i;
      return { iova: number(at), bytes: number(at + 8), address: number(at + 16) };
    });
    return this.regions.every(({ bytes }) => bytes > 0) ? 0 : -errno.EFAULT;
  }

  #ringIoctl(name: string, index: number, ring: Vring, view: DataView): number {
    const value = view.byteLength >= 8 ? view.getInt32(4, true) : 0;
    this.calls.push(
      name === 'SET_VRING_ADDR' || /KICK|CALL|ERR$/.test(name)
        ? `${name} ${index}`
        : `${name} ${index} ${value}`,
    );
    switch (name) {
      case 'SET_VRING_NUM':
        if (ring.isOn) return -errno.EBUSY;
        ring.num = value;
        return value > 0 && value <= 0xffff && (value & (value - 1)) === 0 ? 0 : -errno.EINVAL;
      case 'SET_VRING_BASE':
        if (ring.isOn) return -errno.EBUSY;
        ring.lastAvail = value;
        return value <= 0xffff ? 0 : -errno.EINVAL;
      case 'GET_VRING_BASE':
        view.setUint32(4, ring.lastAvail, true);
        return 0;
      case 'SET_VRING_ADDR': {
        const [flags, logAddress] = [value, Number(view.getBigUint64(32, true))];
        if ((flags & ~1) !== 0) return -errno.EOPNOTSUPP;
        if (logAddress % 4 !== 0) return -errno.EINVAL;
        ring.logAddress = flags === 1 ? logAddress : undefined;
        ring.desc = Number(view.getBigUint64(8, true));
        ring.used = Number(view.getBigUint64(16, true));
        ring.avail = Number(view.getBigUint64(24, true));
        return ring.avail % 2 === 0 && ring.used % 4 === 0 ? 0 : -errno.EINVAL;
      }
      case 'NET_SET_BACKEND':
        return this.#setBackend(ring, value);
      default:
        if (value >= 0 && !isEventfd(value)) return -errno.EINVAL;
        ring[name === 'SET_VRING_KICK' ? 'kick' : name === 'SET_VRING_CALL' ? 'call' : 'err'] = value;
        return 0;
    }
  }

  #setBackend(ring: Vring, fd: number): number {
    if (ring.num === 0 || ring.desc === 0 || ring.kick < 0) return -errno.EFAULT;
    if (fd >= 0 && fd !== this.#tap?.number) return -errno.ENOTSOCK;
    ring.isOn = fd >= 0;
    if (!ring.isOn) return 0;
    at(ring.used, 4).setUint16(0, 0, true);
    this.#logUsed(ring, 0, 2);
    ring.usedIdx = at(ring.used, 4).getUint16(2, true);
    return 0;
  }

  /** Marks what has been written, once {@link isSlowToMark}. */
  mark(count: number = this.#marks.length): void {
    for (const page of this.#marks.splice(0, count)) {
      const byte = new Uint8Array(memoryAt(this.logBase + Math.floor(page / 8), 1));
      byte[0] = (byte[0] as number) | (1 << (page % 8));
    }
  }

  /** The kernel does not know how long its log is either. */
  #log(iova: number, bytes: number): void {
    for (let page = Math.floor(iova / LOG_PAGE); page * LOG_PAGE < iova + bytes; page++)
      this.#marks.push(page);
    if (!this.isSlowToMark) this.mark();
  }

  #logUsed(ring: Vring, offset: number, bytes: number): void {
    if (ring.logAddress !== undefined) this.#log(ring.logAddress + offset, bytes);
  }

  /** What the thread does once it is woken. Returns the chains that it has used. */
  work(): number {
    let chains = 0;
    if (this.rings[1]?.isOn) while (this.#transmit(this.rings[1] as Vring)) chains++;
    if (this.rings[0]?.isOn)
      while (this.toGuest.length > 0 && this.#receive(this.rings[0] as Vring)) {
        this.toGuest.shift();
        chains++;
      }
    return chains;
  }

  #transmit(ring: Vring): boolean {
    const chain = this.#take(ring);
    if (chain === undefined) return false;
    ring.lastAvail = (ring.lastAvail + 1) & 0xffff;
    // Taken, and never returned.
    if (chain.parts.some(({ isWritable }) => isWritable)) return this.#complain(ring);
    this.sent.push(Uint8Array.from(chain.parts.flatMap(({ bytes }) => [...bytes])));
    this.#return(ring, chain.head, 0);
    return true;
  }

  #receive(ring: Vring): boolean {
    const chain = this.#take(ring);
    if (chain === undefined) return false;
    const frame = this.toGuest[0] as Uint8Array;
    if (!chain.parts.every(({ isWritable }) => isWritable)) return this.#complain(ring);
    let done = 0;
    for (const { iova, bytes } of chain.parts) {
      const piece = frame.subarray(done, done + bytes.length);
      bytes.set(piece);
      if ((this.accepted & VHOST_F_LOG_ALL) !== 0n && piece.length > 0) this.#log(iova, piece.length);
      done += piece.length;
    }
    ring.lastAvail = (ring.lastAvail + 1) & 0xffff;
    this.#return(ring, chain.head, done);
    return true;
  }

  #complain(ring: Vring): false {
    if (ring.err >= 0) signalEventfd(ring.err);
    return false;
  }

  #take(ring: Vring) {
    const avail = at(ring.avail, 4 + 2 * ring.num);
    if (avail.getUint16(2, true) === ring.lastAvail) return undefined;
    const head = avail.getUint16(4 + 2 * (ring.lastAvail % ring.num), true);
    const parts: { readonly iova: number; readonly bytes: Uint8Array; readonly isWritable: boolean }[] = [];
    let table = at(ring.desc, 16 * ring.num);
    for (let index = head; ; ) {
      const iova = Number(table.getBigUint64(16 * index, true));
      const length = table.getUint32(16 * index + 8, true);
      const flags = table.getUint16(16 * index + 12, true);
      const bytes = this.#translate(iova, length);
      if (bytes === undefined) {
        this.#complain(ring);
        return undefined;
      }
      if ((flags & VRING_DESC_F_INDIRECT) !== 0) {
        table = new DataView(bytes.buffer, bytes.byteOffset, length);
        index = 0;
        continue;
      }
      parts.push({ iova, bytes, isWritable: (flags & VRING_DESC_F_WRITE) !== 0 });
      if ((flags & VRING_DESC_F_NEXT) === 0) return { head, parts };
      index = table.getUint16(16 * index + 14, true);
    }
  }

  #translate(iova: number, length: number): Uint8Array | undefined {
    const region = this.regions.find((each) => iova >= each.iova && iova + length <= each.iova + each.bytes);
    if (region === undefined) return undefined;
    return new Uint8Array(memoryAt(region.address + iova - region.iova, length));
  }

  #return(ring: Vring, head: number, length: number): void {
    const used = at(ring.used, 6 + 8 * ring.num);
    const old = ring.usedIdx;
    used.setUint32(4 + 8 * (old % ring.num), head, true);
    used.setUint32(8 + 8 * (old % ring.num), length, true);
    this.#logUsed(ring, 4 + 8 * (old % ring.num), 8);
    ring.usedIdx = (old + 1) & 0xffff;
    used.setUint16(2, ring.usedIdx, true);
    this.#logUsed(ring, 2, 2);
    const avail = at(ring.avail, 6 + 2 * ring.num);
    const wants =
      (this.accepted & VIRTIO_RING_F_EVENT_IDX) === 0n
        ? (avail.getUint16(0, true) & 1) === 0
        : avail.getUint16(4 + 2 * ring.num, true) === old;
    if (wants && ring.call >= 0) signalEventfd(ring.call);
  }

  [Symbol.dispose](): void {
    this.#tap?.[Symbol.dispose]();
  }
}

const viewOf = (argument: Uint8Array | number): DataView => {
  if (typeof argument === 'number') throw new RangeError('the request takes a structure');
  return new DataView(argument.buffer, argument.byteOffset, argument.byteLength);
};

const at = (address: number, bytes: number): DataView => new DataView(memoryAt(address, bytes));

const isEventfd = (fd: number): boolean => readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]';

/**
 * Bindings of libc; the only file that uses ffi-rs. One typed function per libc call. Each returns the C result, or the
 * negative errno where C would return -1; a failed call never throws.
 *
 * The main thread must load ffi-rs and resolve each symbol before a worker calls it; importing this module there does
 * both. A worker that imports it first gets an error, because the process would crash when that worker ends.
 */
import { createRequire } from 'node:module';
import { isMainThread } from 'node:worker_threads';
import { withLibcKind } from './libc-kind.js';
import { refuseWorkerFirst, warmUpInMainThread } from './main-thread-first.js';

const require = createRequire(import.meta.url);
// By path: copies of this package share the loaded library exactly if they share ffi-rs.
const FFI_RS = require.resolve('ffi-rs');
refuseWorkerFirst(FFI_RS);
// Required, not imported: an import would load it before the line above runs.
const { createExternalBuffer, DataType, load, open } = requireFfi();
type JsExternal = import('ffi-rs').JsExternal;

/** ffi-rs looks for its library in several places, and reports the last one as missing, whatever went wrong. */
function requireFfi(): typeof import('ffi-rs') {
  try {
    return withLibcKind(() => require(FFI_RS)) as typeof import('ffi-rs');
  } catch (cause) {
    const [reason] = String((cause as Error).message).split('\n');
    const hint = 'is it installed for this platform (npm ci), and are there descriptors left (`ulimit -n`)?';
    throw new Error(`ffi-rs cannot be loaded: ${reason}\n  hint: ${hint}`, { cause });
  }
}

const LIBRARY = 'libc';
const [EINTR, EBADF, EAGAIN] = [4, 9, 11];
const AT_FDCWD = -100;
const { I32: INT, I64: LONG, String: STRING, U8Array: BYTES, External: POINTER } = DataType;

open({ library: LIBRARY, path: 'libc.so.6' });

type FfiType = import('ffi-rs').DataType;
type Arg = number | string | Uint8Array;
type Call<R> = (...args: Arg[]) => R;
interface Block {
  readonly library: string;
  readonly funcName: string;
  readonly retType: FfiType;
  readonly paramsType: FfiType[];
  readonly paramsValue: Arg[];
}

/** By signature: a symbol can have several. */
const warmUps = new Map<string, () => unknown>();

const blockOf = (funcName: string, retType: FfiType, paramsType: FfiType[], paramsValue: Arg[]): Block => ({
  library: LIBRARY,
  funcName,
  retType,
  paramsType,
  paramsValue,
});

/**
 * Declares a libc symbol. Builds its parameter block once, because building it takes a third of a call's time.
 * `harmless` are arguments with which the call fails or does nothing.
 */
function declare<R = number>(
  funcName: string,
  retType: FfiType,
  paramsType: FfiType[],
  harmless: Arg[],
  prepare: (block: Block) => () => R = (block) => () => load(block) as R,
): Call<R> {
  const paramsValue: Arg[] = [...harmless];
  const run = prepare(blockOf(funcName, retType, paramsType, paramsValue));
  const buffersAt = [...paramsType.keys()].filter((i) => paramsType[i] === BYTES);
  const call = (...args: Arg[]): R => {
    for (let i = 0; i < paramsValue.length; i++) paramsValue[i] = args[i] as Arg;
    const value = run();
    // Otherwise the block would keep a caller's buffer until the next call.
    for (const i of buffersAt) paramsValue[i] = harmless[i] as Arg;
    return value;
  };
  warmUps.set(`${funcName}(${paramsType.join()})`, () => call(...harmless));
  return call;
}

interface FfiErrno {
  readonly value: number;
  readonly errnoCode: number;
}

/** The result, or the negative errno for -1, which ffi-rs reads before V8 can. Takes 0.7 us longer than a call without. */
function prepareExact(block: Block): () => number {
  const exact = { ...block, errno: true };
  return () => {
    const { value, errnoCode } = load(exact) as unknown as FfiErrno;
    return value < 0 ? -errnoCode : value;
  };
}

const declareCall = (funcName: string, retType: FfiType, paramsType: FfiType[], harmless: Arg[]) =>
  declare(funcName, retType, paramsType, harmless, prepareExact);

const none = new Uint8Array(4096);
const errnoLocation = declare<JsExternal>('__errno_location', POINTER, [], []);
/** A memmove of 0 bytes converts a number to a pointer, or a buffer to its address. */
const pointerTo = declare<JsExternal>('memmove', POINTER, [LONG, LONG, LONG], [0, 0, 0]);
const bytesAddress = declare('memmove', LONG, [BYTES, BYTES, LONG], [none, none, 0]);

/** This thread's errno, read without a call; a stand-in until libc may be called. */
let threadErrno: Int32Array = new Int32Array(1);
/**
 * The errno of the C function that this thread has called last, which has failed: most likely. V8 may have collected garbage
 * or exchanged compiled code before JavaScript reads it, and have left an errno of its own (ENOMEM, EAGAIN): seen once in a
 * million failures.
 */
export const lastErrno = (): number => threadErrno[0] as number;

/**
 * For frequent calls, of which one that has failed can be repeated: EAGAIN and EINTR, which are frequent, are taken from
 * {@link lastErrno}, as whoever gets them calls again; others by repeating the call. Not for sockets, which report an error once.
 */
function prepareOften(block: Block): () => number {
  const again = prepareExact(block);
  return () => {
    const value = load(block) as number;
    if (value >= 0) return value;
    const error = lastErrno();
    return error === EAGAIN || error === EINTR ? -error : again();
  };
}

const declareOften = (funcName: string, retType: FfiType, paramsType: FfiType[], harmless: Arg[]) =>
  declare(funcName, retType, paramsType, harmless, prepareOften);

const c = {
  ioctl: declareCall('ioctl', INT, [INT, LONG, LONG], [-1, 0, 0]),
  ioctlBytes: declareCall('ioctl', INT, [INT, LONG, BYTES], [-1, 0, none]),
  mmap: declareCall('mmap', LONG, [LONG, LONG, INT, INT, INT, LONG], [0, 0, 0, 0, -1, 0]),
  munmap: declareCall('munmap', INT, [LONG, LONG], [0, 0]),
  madvise: declareCall('madvise', INT, [LONG, LONG, INT], [0, 0, -1]),
  memfd_create: declareCall('memfd_create', INT, [STRING, INT], ['', -1]),
  eventfd: declareCall('eventfd', INT, [INT, INT], [0, -1]),
  fcntl: declareCall('fcntl', INT, [INT, INT, LONG], [-1, 0, 0]),
  poll: declareOften('poll', INT, [BYTES, LONG, INT], [none, 0, 0]),
  epoll_create1: declareCall('epoll_create1', INT, [INT], [-1]),
  epoll_ctl: declareCall('epoll_ctl', INT, [INT, INT, INT, BYTES], [-1, 0, -1, none]),
  epoll_wait: declareOften('epoll_wait', INT, [INT, LONG, INT, INT], [-1, 0, 1, 0]),
  socket: declareCall('socket', INT, [INT, INT, INT], [-1, 0, 0]),
  socketpair: declareCall('socketpair', INT, [INT, INT, INT, BYTES], [-1, 0, 0, none]),
  connect: declareCall('connect', INT, [INT, BYTES, INT], [-1, none, 0]),
  bind: declareCall('bind', INT, [INT, BYTES, INT], [-1, none, 0]),
  listen: declareCall('listen', INT, [INT, INT], [-1, 0]),
  accept4: declareCall('accept4', INT, [INT, LONG, LONG, INT], [-1, 0, 0, 0]),
  getsockopt: declareCall('getsockopt', INT, [INT, INT, INT, BYTES, BYTES], [-1, 0, 0, none, none]),
  setsockopt: declareCall('setsockopt', INT, [INT, INT, INT, BYTES, INT], [-1, 0, 0, none, 0]),
  sendmsg: declareCall('sendmsg', LONG, [INT, LONG, INT], [-1, 0, 0]),
  recvmsg: declareCall('recvmsg', LONG, [INT, LONG, INT], [-1, 0, 0]),
  preadv2: declareOften('preadv2', LONG, [INT, LONG, INT, LONG, INT], [-1, 0, 0, -1, 0]),
  syscall: declareOften('syscall', LONG, [LONG, LONG, LONG, LONG], [-1, 0, 0, 0]),
  syscall4: declareCall('syscall', LONG, [LONG, LONG, LONG, LONG, LONG], [-1, 0, 0, 0, 0]),
  inotify_init1: declareCall('inotify_init1', INT, [INT], [-1]),
  inotify_add_watch: declareCall('inotify_add_watch', INT, [INT, STRING, INT], [-1, '', 0]),
  renameat2: declareCall('renameat2', INT, [INT, STRING, INT, STRING, INT], [-1, '', -1, '', -1]),
  mount: declareCall('mount', INT, [STRING, STRING, STRING, LONG, STRING], ['', '', '', 0, '']),
  umount2: declareCall('umount2', INT, [STRING, INT], ['', -1]),
  waitpid: declareCall('waitpid', INT, [INT, BYTES, INT], [0x7fffffff, none, 1]),
  sigaction: declareCall('sigaction', INT, [INT, BYTES, LONG], [-1, none, 0]),
  gettid: declare('gettid', INT, [], []),
  tgkill: declareCall('tgkill', INT, [INT, INT, INT], [-1, -1, 0]),
  dlsym: declare('dlsym', LONG, [LONG, STRING], [0, 'abs']),
  prctl: declare('prctl', INT, [INT, STRING, LONG, LONG, LONG], [-1, '', 0, 0, 0]),
  prctlNumbers: declareCall('prctl', INT, [INT, LONG, LONG, LONG, LONG], [-1, 0, 0, 0, 0]),
};

// ffi-rs's symbol table is not safe for concurrent first calls, so they all happen while there is one thread.
warmUpInMainThread(FFI_RS, warmUps);
threadErrno = new Int32Array(createExternalBuffer(errnoLocation(), 4).buffer);

/**
 * A view of memory at a host address, without a copy. The caller keeps the memory mapped while the view is in use: a
 * later access raises SIGSEGV, not an exception. A call takes microseconds and adds GC pressure, so create few views.
 */
export function memoryAt(address: number, bytes: number): ArrayBuffer {
  return createExternalBuffer(pointerTo(address, address, 0), bytes).buffer as ArrayBuffer;
}

/** What calls in progress use by address: the collector must neither free nor move it. */
const held: Uint8Array[] = [];

/** V8 keeps small arrays among its own objects, and moves them, until their buffer is asked for. */
function fixedAddress(view: Uint8Array): number {
  if (view.buffer.byteLength < view.byteLength) throw new RangeError('the buffer has been detached');
  return bytesAddress(view, view, 0);
}

/**
 * Calls `use` with the address of a buffer's first byte, and returns its result. The address is good until `use`
 * returns, and must not be kept: nothing holds the buffer after that. For one that is kept, see {@link PinnedBytes}.
 */
export function withAddress<R>(view: Uint8Array, use: (address: number) => R): R {
  held.push(view);
  try {
    return use(fixedAddress(view));
  } finally {
    held.pop();
  }
}

/** Of buffers: their memory never moves once its address has been asked for. */
const bases = new WeakMap<ArrayBufferLike, number>();

/**
 * Addresses for calls that go on after they have returned (io_uring): whoever makes one holds the memory's view until it is
 * done. Each buffer is asked once, so that a view of guest memory costs a look-up.
 */
export const heldMemory = {
  /** Of the view's first byte. */
  of(view: Uint8Array): number {
    const { buffer, byteOffset } = view;
    let base = bases.get(buffer);
    if (base === undefined) {
      base = fixedAddress(new Uint8Array(buffer));
      bases.set(buffer, base);
    }
    return base + byteOffset;
  },
};

const pinned = new Set<PinnedBytes>();

/** Bytes at a fixed address, which the collector does not free before {@link PinnedBytes[Symbol.dispose]}. */
export class PinnedBytes implements Disposable {
  /** May be used after dispose, unlike the address. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  #address: number;

  /** @param size in bytes */
  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#address = fixedAddress(this.bytes);
    pinned.add(this);
  }

  /** Of the first byte. @throws RangeError after dispose */
  get address(): number {
    if (this.#address === 0) throw new RangeError('these bytes have no fixed address any more');
    return this.#address;
  }

  [Symbol.dispose](): void {
    this.#address = 0;
    pinned.delete(this);
  }
}

/** ioctl with a number (or a host address) as its argument. */
export const ioctlValue = (fd: number, request: number, value: number): number => c.ioctl(fd, request, value);

/** ioctl without an argument; passes 0, which the kernel requires for some (KVM_GET_API_VERSION). */
export const ioctlNone = (fd: number, request: number): number => c.ioctl(fd, request, 0);

/** ioctl with a structure, read and written in place. */
export const ioctlPtr = (fd: number, request: number, struct: Uint8Array): number =>
  c.ioctlBytes(fd, request, struct);

/** One ioctl on one fd, prepared for frequent calls. Returns its result, or the negative errno. */
export type PreparedIoctl = () => number;

/** Prepares an ioctl for frequent calls. */
export const prepareIoctl = (fd: number, request: number, value: number): PreparedIoctl =>
  prepareOften(blockOf('ioctl', INT, [INT, LONG, LONG], [fd, request, value]));

/**
 * Prepares epoll_wait for frequent calls, as {@link prepareIoctl}: each makes less garbage. `events` is an address: taking
 * it of a buffer at each call would be a third of the call's time.
 */
export function prepareEpollWait(epfd: number, events: number, count: number): (timeoutMs: number) => number {
  const paramsValue = [epfd, events, count, 0];
  const wait = prepareOften(blockOf('epoll_wait', INT, [INT, LONG, INT, INT], paramsValue));
  return (timeoutMs) => {
    paramsValue[3] = timeoutMs;
    return wait();
  };
}

/** Address of the mapping, or the negative errno. `bytes` and `offset` are multiples of the page size. */
export const mmap = (
  at: number,
  bytes: number,
  prot: number,
  flags: number,
  fd: number,
  offset: number,
): number => c.mmap(at, bytes, prot, flags, fd, offset);
export const munmap = (address: number, bytes: number): number => c.munmap(address, bytes);
export const madvise = (address: number, bytes: number, advice: number): number =>
  c.madvise(address, bytes, advice);
export const memfdCreate = (name: string, flags: number): number => c.memfd_create(name, flags);
export const eventfd = (initial: number, flags: number): number => c.eventfd(initial, flags);
export const fcntl = (fd: number, command: number, value: number): number => c.fcntl(fd, command, value);
/** `fds` holds `count` struct pollfd; a `timeoutMs` of -1 waits forever. */
export const poll = (fds: Uint8Array, count: number, timeoutMs: number): number =>
  c.poll(fds, count, timeoutMs);
export const epollCreate1 = (flags: number): number => c.epoll_create1(flags);
export const epollCtl = (epfd: number, operation: number, fd: number, event: Uint8Array): number =>
  c.epoll_ctl(epfd, operation, fd, event);
export const socket = (domain: number, type: number): number => c.socket(domain, type, 0);
/** `fds` receives two descriptors (int). */
export const socketpair = (domain: number, type: number, fds: Uint8Array): number =>
  c.socketpair(domain, type, 0, fds);
/** `address` is a struct sockaddr of any kind. */
export const connect = (fd: number, address: Uint8Array): number => c.connect(fd, address, address.length);
/** `address` is a struct sockaddr. */
export const bind = (fd: number, address: Uint8Array): number => c.bind(fd, address, address.length);
export const listen = (fd: number, backlog: number): number => c.listen(fd, backlog);
/** Does not return the peer's address. */
export const accept4 = (fd: number, flags: number): number => c.accept4(fd, 0, 0, flags);
/** `length` holds the size of `value` (int), and receives that of the option. */
export const getsockopt = (
  fd: number,
  level: number,
  name: number,
  value: Uint8Array,
  length: Uint8Array,
): number => c.getsockopt(fd, level, name, value, length);
export const setsockopt = (fd: number, level: number, name: number, value: Uint8Array): number =>
  c.setsockopt(fd, level, name, value, value.length);
/** `msghdr` is the address of a struct msghdr. */
export const sendmsg = (fd: number, msghdr: number, flags: number): number => c.sendmsg(fd, msghdr, flags);
export const recvmsg = (fd: number, msghdr: number, flags: number): number => c.recvmsg(fd, msghdr, flags);
/** `iov` is the address of `count` struct iovec; -1 as `offset` is the file's position. */
export const preadv2 = (fd: number, iov: number, count: number, offset: number, flags: number): number =>
  c.preadv2(fd, iov, count, offset, flags);
/** A system call without a function of its own; arguments are numbers or addresses. */
export const syscall = (number: number, a: number, b: number, c3: number): number =>
  c.syscall(number, a, b, c3);
/** As {@link syscall}, with four arguments. */
export const syscall4 = (number: number, a: number, b: number, c3: number, d: number): number =>
  c.syscall4(number, a, b, c3, d);
/** Arguments are numbers or addresses. */
export const prctl = (option: number, a: number, b: number, c3: number, d: number): number =>
  c.prctlNumbers(option, a, b, c3, d);
export const inotifyInit1 = (flags: number): number => c.inotify_init1(flags);
export const inotifyAddWatch = (fd: number, path: string, mask: number): number =>
  c.inotify_add_watch(fd, path, mask);
export const renameat2 = (from: string, to: string, flags: number): number =>
  c.renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
/** `data` are the file system's options. */
export const mount = (source: string, target: string, type: string, flags: number, data: string): number =>
  c.mount(source, target, type, flags, data);
export const umount2 = (target: string, flags: number): number => c.umount2(target, flags);
/** `status` receives the wait status (int) of a child that has ended. */
export const waitpid = (pid: number, status: Uint8Array, options: number): number =>
  c.waitpid(pid, status, options);
/** `action` is a struct sigaction. */
export const sigaction = (signal: number, action: Uint8Array): number => c.sigaction(signal, action, 0);
export const gettid = (): number => c.gettid();
export const tgkill = (pid: number, tid: number, signal: number): number => c.tgkill(pid, tid, signal);
/** Address of a symbol of the process, 0 if there is none. */
export const dlsym = (name: string): number => c.dlsym(0, name);

const PR_SET_NAME = 15;
/** Sets the calling thread's name, for `top -H` and gdb; truncated to 15 characters. */
export const setThreadName = (name: string): void => {
  c.prctl(PR_SET_NAME, name.slice(0, 15), 0, 0, 0);
};

/**
 * Tests the assumptions of this module once per process: a new runtime or ffi-rs could silently break them.
 * @throws Error naming the failed assumption
 */
function selfTest(): void {
  const expectThat = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`tsvisor: ffi-rs does not work in this runtime: ${what}`);
  };
  expectThat(ioctlNone(-1, 0) === -EBADF, 'a failed call does not give its errno');
  const page = mmap(0, 4096, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  expectThat(page > 0 && Number.isSafeInteger(page), 'mmap gives no usable address');
  const [one, other] = [new Uint8Array(memoryAt(page, 4096)), new Uint8Array(memoryAt(page, 4096))];
  one[4095] = 0xa5;
  expectThat(other[4095] === 0xa5, 'memory is copied instead of shared: external buffers are forbidden here');
  expectThat(
    withAddress(one, (address) => address === page),
    'an address does not survive the way there and back',
  );
  munmap(page, 4096);
}

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
if (isMainThread) selfTest();

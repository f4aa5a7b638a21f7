/**
 * The doors of this package for the one ioctl that is hot: KVM_RUN. ffi-rs is always there, and makes all other calls. A call
 * through Node's own `node:ffi`, or through koffi, takes a tenth of its time.
 */
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { uncut } from './exit-board.js';
import { DOOR_NAMES, type DoorChoice, type IoctlDoor, type NamedDoor } from './ioctl-door.js';
import * as libc from './libc.js';
import { trace } from './trace.js';

/** What is used of each library; either may change without notice. */
interface NodeFfi {
  dlopen(path: string, definitions: object): { readonly functions: { readonly ioctl: NodeFfiIoctl } };
}
type NodeFfiIoctl = (fd: number, request: number, argument: bigint) => bigint;
interface Koffi {
  load(path: string): { func(name: string, result: string, parameters: string[]): KoffiIoctl };
}
type KoffiIoctl = (fd: number, request: number, argument: number) => number;

const LIBC = 'libc.so.6';
/** `fd`, `request` (of which Linux reads 32 bits), and a number or an address. */
const NODE_FFI_IOCTL = {
  arguments: ['i32', 'u32', 'u64'],
  // Not `i32`: Node then describes the call to V8's compiler, whose threads read that description while Node frees it, as
  // ours ends. Node 26.10 died of that in 5 of 6 trials (SIGSEGV, SIGTRAP). Calls with a `function` are not described. As an
  // argument it would cost a microsecond more: the call then collects its arguments in an array.
  return: 'function',
};

/** Undefined if this Node does not have it. */
function openNodeFfi(): IoctlDoor | undefined {
  const module = withoutExperimentalWarning(() => process.getBuiltinModule('node:ffi')) as
    | NodeFfi
    | undefined;
  if (module === undefined) return undefined;
  const { ioctl } = module.dlopen(LIBC, { ioctl: NODE_FFI_IOCTL }).functions;
  return {
    name: 'node:ffi',
    prepare(fd, request, value) {
      const [number, argument] = [request >>> 0, BigInt(value)];
      return () => {
        const result = ioctl(fd, number, argument);
        if (result === 0n) return 0;
        const error = libc.lastErrno(); // before the next line, which allocates
        const value = Number(BigInt.asIntN(32, result)); // C returns an int; the register's upper half is anything
        return value < 0 ? -error : value;
      };
    },
  };
}

/** Undefined if it is not installed. */
function openKoffi(): IoctlDoor | undefined {
  const require = createRequire(import.meta.url);
  let path: string;
  try {
    path = require.resolve('koffi');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
  const ioctl = (require(path) as Koffi).load(LIBC).func('ioctl', 'int', ['int', 'ulong', 'long']);
  return {
    name: 'koffi',
    prepare: (fd, request, value) => () => {
      const result = ioctl(fd, request, value);
      return result < 0 ? -libc.lastErrno() : result;
    },
  };
}

const ffiRs: NamedDoor = { name: 'ffi-rs', prepare: libc.prepareIoctl };

/** Node warns each thread that uses it. Whether it works is tested here, and the report names the door. */
function withoutExperimentalWarning<T>(load: () => T): T {
  const { emitWarning } = process;
  process.emitWarning = (warning: string | Error, ...rest: unknown[]) => {
    if (rest[0] !== 'ExperimentalWarning') Reflect.apply(emitWarning, process, [warning, ...rest]);
  };
  try {
    return load();
  } finally {
    process.emitWarning = emitWarning;
  }
}

const FIONBIO = 0x5421;
const F_GETFL = 3;
const O_NONBLOCK = 0o4000;

/** @throws Error unless results, errno and all three arguments come through: FIONBIO reads a number at an address */
function prove(door: IoctlDoor): void {
  if (door.prepare(-1, FIONBIO, 0)() !== -errno.EBADF)
    throw new Error('a failed call does not return its errno');
  const fd = openNull();
  if (fd === undefined) return;
  try {
    const one = new Uint8Array(Uint32Array.of(1).buffer);
    const result = libc.withAddress(one, (address) => door.prepare(fd, FIONBIO, address)());
    if (result !== 0 || (libc.fcntl(fd, F_GETFL, 0) & O_NONBLOCK) === 0)
      throw new Error('a call does not pass its arguments');
  } finally {
    closeSync(fd);
  }
}

/**
 * A fast call's errno may be a futex's by now, as V8 may collect garbage before JavaScript reads it (EAGAIN, seen once in
 * 100,000 failures through node:ffi). So only EINTR, which must not be repeated, is taken as it is: another error is had
 * from ffi-rs. If it was EINTR after all, KVM_RUN returns that again, as who interrupts it sets immediate_exit before.
 */
const sureOfErrno = ({ name, prepare }: IoctlDoor): IoctlDoor => ({
  name,
  prepare(fd, request, value) {
    const [call, again] = [prepare(fd, request, value), libc.prepareIoctl(fd, request, value)];
    return () => {
      const result = call();
      return result < 0 && result !== -errno.EINTR ? again() : result;
    };
  },
});

/** By Node, as it warns in a worker that closes what Node has not opened. Without it, KVM's first error says what is wrong. */
function openNull(): number | undefined {
  try {
    return openSync('/dev/null', 'r');
  } catch {
    return undefined;
  }
}

const openers = { 'node:ffi': openNodeFfi, koffi: openKoffi } as const;
type FastName = keyof typeof openers;

const absent: Readonly<Record<FastName, { readonly errno: number; readonly hint: string }>> = {
  'node:ffi': {
    errno: errno.ENOSYS,
    hint: `Node ${process.version} does not have it: Node 26.9 does, and 26.1 with --experimental-ffi; or choose --ffi auto`,
  },
  koffi: {
    errno: errno.ENOENT,
    hint: 'this optional package is not installed: npm install koffi; or choose --ffi auto',
  },
};

/** Undefined if it is not there. @throws whatever shows that it does not work */
function tryOpen(name: FastName): NamedDoor | undefined {
  const door = openers[name]();
  if (door === undefined) return undefined;
  prove(door);
  return sureOfErrno(door) as NamedDoor;
}

const opened = new Map<DoorChoice, NamedDoor>();

/**
 * Opens a door for the calling thread; once, so that asking again is free.
 * @param choice `auto`: the first of {@link DOOR_NAMES} that works here. One that is there and does not work is reported to
 *   `trace.door`
 * @throws SysError for a door that was asked for by name: ENOSYS if this Node has no node:ffi, ENOENT if koffi is not
 *   installed, EACCES if Node's permission model forbids it, ENOEXEC if it does not work. Never for `auto` and `ffi-rs`
 *
 * Where koffi is installed, do not terminate a worker that is in this function for the first time: while it loads, koffi
 * answers the end of its thread with abort(). The exit of the process waits for it, and then this function does not return.
 */
export function openDoor(choice: DoorChoice = 'auto'): NamedDoor {
  const known = opened.get(choice);
  if (known !== undefined) return known;
  // Where their thread is ended meanwhile, koffi as it loads and ffi-rs in any call abort the process.
  const door =
    choice === 'ffi-rs' ? ffiRs : uncut(() => (choice === 'auto' ? firstThatWorks() : openNamed(choice)));
  opened.set(choice, door).set(door.name, door);
  return door;
}

function openNamed(name: FastName): NamedDoor {
  try {
    const door = tryOpen(name);
    if (door !== undefined) return door;
  } catch (cause) {
    throw unusable(name, cause);
  }
  throw new SysError({ call: 'dlopen', target: name, ...absent[name] });
}

function unusable(name: FastName, cause: unknown): SysError {
  const isForbidden = (cause as NodeJS.ErrnoException | undefined)?.code === 'ERR_ACCESS_DENIED';
  const hint = isForbidden
    ? "Node's permission model forbids it: start Node with --allow-ffi; or choose --ffi auto"
    : `it does not work in this process (${reasonOf(cause)}): choose --ffi auto`;
  return new SysError({
    call: 'dlopen',
    target: name,
    errno: isForbidden ? errno.EACCES : errno.ENOEXEC,
    hint,
    cause,
  });
}

/** The first line of a message: the others are a loader's list of places. */
const reasonOf = (cause: unknown): string =>
  (cause instanceof Error ? cause.message : String(cause)).split('\n', 1)[0] as string;

function firstThatWorks(): NamedDoor {
  for (const name of DOOR_NAMES) {
    if (name === 'ffi-rs') break;
    try {
      const door = opened.get(name) ?? tryOpen(name);
      if (door !== undefined) return door;
    } catch (cause) {
      if (trace.door.hasSubscribers)
        trace.door.publish({ door: name, text: `skipped, as it does not work here: ${reasonOf(cause)}` });
    }
  }
  return ffiRs;
}

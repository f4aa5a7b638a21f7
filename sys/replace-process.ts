/** Replaces the program of this process, whose number, parent and terminal stay. */
import { SysError } from './error.js';
import * as libc from './libc.js';
import { SYSTEM_CALLS } from './system-calls.js';

const CLOSE_RANGE_CLOEXEC = 1 << 2;
const STDERR = 2;
const EVERY_ONE = 0xffff_ffff;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;

export interface NewProgram {
  readonly path: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Descriptors that it gets beside 0, 1 and 2. All others are closed. */
  readonly keep: readonly number[];
}

/** Pointers to texts, up to a null pointer, and the texts behind them. */
function texts(words: readonly string[]): libc.PinnedBytes {
  const encoded = words.map((word) => Buffer.from(`${word}\0`));
  const table = 8 * (words.length + 1);
  const block = new libc.PinnedBytes(table + encoded.reduce((sum, { length }) => sum + length, 0));
  const view = new DataView(block.bytes.buffer);
  let at = table;
  for (const [i, bytes] of encoded.entries()) {
    view.setBigUint64(8 * i, BigInt(block.address + at), true);
    block.bytes.set(bytes, at);
    at += bytes.length;
  }
  return block;
}

/**
 * execve(2). All other threads end. The new program's main thread has this thread's credentials, Landlock domain and
 * ignored signals. Returns only by throwing.
 * @throws SysError of execve(2); EBADF if a descriptor to keep is not open
 */
export function replaceProcess({ path, args, env, keep }: NewProgram): never {
  const program = Buffer.from(`${path}\0`);
  using argv = texts(args);
  using envp = texts(
    Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`])),
  );
  // Node makes most close-on-exec when it starts, and stops at a gap. ENOSYS before Linux 5.11.
  libc.syscall(SYSTEM_CALLS.close_range, STDERR + 1, EVERY_ONE, CLOSE_RANGE_CLOEXEC);
  for (const fd of [0, 1, STDERR, ...keep]) {
    const result = libc.fcntl(fd, F_SETFD, 0);
    if (result < 0 && fd > STDERR)
      throw new SysError({ call: 'fcntl F_SETFD', target: `fd ${fd}`, errno: -result });
  }
  for (const fd of [0, 1, STDERR]) setBlocking(fd);
  const result = libc.withAddress(program, (address) =>
    libc.syscall(SYSTEM_CALLS.execve, address, argv.address, envp.address),
  );
  throw new SysError({ call: 'execve', target: path, errno: -result });
}

/** Node makes pipes non-blocking, and undoes that only where it ends: who shares the pipe would find it so later. */
function setBlocking(fd: number): void {
  const flags = libc.fcntl(fd, F_GETFL, 0);
  if (flags >= 0 && (flags & O_NONBLOCK) !== 0) libc.fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

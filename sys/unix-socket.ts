import { errno } from './errno.js';
import { SysError } from './error.js';
import { checked, Fd } from './fd.js';
import * as libc from './libc.js';
import { Scope } from './scope.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
/** Bytes of sun_path in struct sockaddr_un, a terminating zero among them. */
const SUN_PATH_BYTES = 108;

const CONNECT_HINTS: Readonly<Record<number, string>> = {
  [errno.ENOENT]: 'nothing listens there: start the other end first',
  [errno.ECONNREFUSED]: 'the file is there, but nobody listens: start the other end first',
  [errno.EACCES]: 'this user may not write to it',
  [errno.EAGAIN]: 'whoever listens does not accept connections just now',
};

/** Why no socket can have this path; undefined if one can. */
export function unixPathProblem(path: string): string | undefined {
  if (path === '') return 'a unix socket needs its path: unix:/run/user/1000/sock';
  const bytes = Buffer.byteLength(path);
  if (bytes < SUN_PATH_BYTES && !path.includes('\0')) return undefined;
  return `a unix socket's path has at most ${SUN_PATH_BYTES - 1} bytes, and no zero among them`;
}

/**
 * A non-blocking stream connection to a listening unix socket.
 * @throws SysError of connect(2) with a hint; EINVAL for a path that none can have
 */
export function connectUnix(path: string): Fd {
  const problem = unixPathProblem(path);
  if (problem !== undefined)
    throw new SysError({ call: 'connect', target: path, errno: errno.EINVAL, hint: problem });
  using scope = new Scope();
  const type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  const fd = scope.own(Fd.adopt(checked(libc.socket(AF_UNIX, type), 'socket', path), path));
  const address = Buffer.alloc(2 + SUN_PATH_BYTES);
  address.writeUInt16LE(AF_UNIX);
  address.write(path, 2);
  const result = libc.connect(fd.number, address);
  checked(result, 'connect', path, CONNECT_HINTS[-result]);
  scope.move();
  return fd;
}

/** Two stream sockets that are each other's other end; both block. @throws SysError EMFILE, ENFILE */
export function unixSocketPair(target: string): readonly [Fd, Fd] {
  const fds = new Int32Array(2);
  const made = libc.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, new Uint8Array(fds.buffer));
  checked(made, 'socketpair', target);
  return [Fd.adopt(fds[0] as number, target), Fd.adopt(fds[1] as number, target)];
}

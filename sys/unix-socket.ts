import { fchmodSync, lstatSync, rmSync, statSync } from 'node:fs';
import { errno } from './errno.js';
import { isErrno, SysError } from './error.js';
import { checked, duplicateFd, Fd } from './fd.js';
import * as libc from './libc.js';
import { Scope } from './scope.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const F_SETFL = 4;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
/** Bytes of sun_path in struct sockaddr_un, including the terminating zero. */
const SUN_PATH_BYTES = 108;

const CONNECT_HINTS: Readonly<Record<number, string>> = {
  [errno.ENOENT]: 'nothing listens there: start its server first',
  [errno.ECONNREFUSED]: 'the file exists, but nobody listens: start its server first',
  [errno.EACCES]: 'this user has no write access to it',
  [errno.EAGAIN]: 'the server is busy: its backlog is full',
};

const NO_SOCKET = 'the file there is no socket';

/** The kernel says the same of a file that is no socket as of a socket without a listener. */
const isOtherFile = (result: number, path: string): boolean =>
  result === -errno.ECONNREFUSED && statSync(path, { throwIfNoEntry: false })?.isSocket() === false;

/** Why `path` cannot be a unix socket's; undefined if it can. */
export function unixPathProblem(path: string): string | undefined {
  if (path === '') return 'a unix socket needs its path: unix:/run/user/1000/sock';
  const bytes = Buffer.byteLength(path);
  if (bytes < SUN_PATH_BYTES && !path.includes('\0')) return undefined;
  return `a unix socket's path has at most ${SUN_PATH_BYTES - 1} bytes, none of them zero`;
}

/**
 * Connects to a listening unix stream socket. Never blocks.
 * @param isBlocking whether reads and writes of the result block
 * @throws SysError from connect(2) with a hint; EINVAL for an invalid path
 */
export function connectUnix(path: string, isBlocking = false): Fd {
  const problem = unixPathProblem(path);
  if (problem !== undefined)
    throw new SysError({ call: 'connect', target: path, errno: errno.EINVAL, hint: problem });
  using scope = new Scope();
  const fd = scope.own(openSocket(path, SOCK_NONBLOCK));
  const result = libc.connect(fd.number, socketAddress(path));
  checked(result, 'connect', path, isOtherFile(result, path) ? NO_SOCKET : CONNECT_HINTS[-result]);
  if (isBlocking) libc.fcntl(fd.number, F_SETFL, 0);
  scope.move();
  return fd;
}

const openSocket = (path: string, flags: number): Fd =>
  Fd.adopt(checked(libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags), 'socket', path), path);

/** struct sockaddr_un */
function socketAddress(path: string): Uint8Array {
  const address = Buffer.alloc(2 + SUN_PATH_BYTES);
  address.writeUInt16LE(AF_UNIX);
  address.write(path, 2);
  return address;
}

/** Clients that may wait to be accepted; the kernel refuses more with EAGAIN. */
const BACKLOG = 64;

/** Accepts the connections of a listening socket, which someone else owns. Disposing stops that. */
export class UnixAcceptor implements Disposable {
  readonly #listener: number;
  readonly #path: string;
  /** Closed to make room for a client that is sent away for lack of descriptors. */
  #spare: Fd | undefined;

  constructor(listener: number, path: string) {
    this.#listener = listener;
    this.#path = path;
    this.#spare = duplicateFd(listener, path);
  }

  /**
   * Accepts a pending connection; undefined if there is none.
   * @param isNonblocking whether reads and writes of it never block
   * @throws SysError EMFILE or ENFILE for a client that is sent away, as there are too many descriptors; ENOMEM
   */
  accept(isNonblocking = false): Fd | undefined {
    this.#spare ??= attempt(() => duplicateFd(this.#listener, this.#path));
    const number = libc.accept4(this.#listener, SOCK_CLOEXEC | (isNonblocking ? SOCK_NONBLOCK : 0));
    if ((number === -errno.EMFILE || number === -errno.ENFILE) && !this.#sendAway()) return undefined;
    if (number === -errno.EAGAIN || number === -errno.EINTR || number === -errno.ECONNABORTED)
      return undefined;
    return Fd.adopt(checked(number, 'accept', this.#path), `client of ${this.#path}`);
  }

  /** Otherwise the client would wait for ever, and be found again at once. @returns false if there is none */
  #sendAway(): boolean {
    this.#spare?.[Symbol.dispose]();
    this.#spare = undefined;
    const number = libc.accept4(this.#listener, SOCK_CLOEXEC);
    if (number >= 0) Fd.adopt(number, this.#path)[Symbol.dispose]();
    this.#spare = attempt(() => duplicateFd(this.#listener, this.#path));
    return number !== -errno.EAGAIN;
  }

  [Symbol.dispose](): void {
    this.#spare?.[Symbol.dispose]();
    this.#spare = undefined;
  }
}

/** A listening unix socket. Disposing closes it and removes its file. */
export class UnixListener implements Disposable {
  readonly path: string;
  readonly fd: Fd;
  readonly #acceptor: UnixAcceptor;

  private constructor(path: string, fd: Fd) {
    this.path = path;
    this.fd = fd;
    this.#acceptor = new UnixAcceptor(fd.number, path);
  }

  /**
   * Creates and binds a socket that never blocks. Replaces the file of a listener that no longer runs.
   * @param mode of its file: whoever may write to it may connect; 0777 less the umask if absent
   * @throws SysError EADDRINUSE if another process listens, or the file is not a socket; EINVAL for an invalid path
   */
  static listen(path: string, mode?: number): UnixListener {
    const problem = unixPathProblem(path);
    if (problem !== undefined)
      throw new SysError({ call: 'bind', target: path, errno: errno.EINVAL, hint: problem });
    removeStale(path);
    using scope = new Scope();
    const fd = scope.own(openSocket(path, SOCK_NONBLOCK));
    // The file gets the socket's own mode. Not by chmod(2), which a sandbox forbids.
    if (mode !== undefined) fchmodSync(fd.number, mode);
    checked(libc.bind(fd.number, socketAddress(path)), 'bind', path, 'its folder must exist and be writable');
    scope.defer(() => rmSync(path, { force: true }));
    checked(libc.listen(fd.number, BACKLOG), 'listen', path);
    const listener = new UnixListener(path, fd);
    scope.move();
    return listener;
  }

  /** Accepts a pending connection. @see UnixAcceptor.accept */
  accept(isNonblocking = false): Fd | undefined {
    return this.#acceptor.accept(isNonblocking);
  }

  [Symbol.dispose](): void {
    if (!this.fd.isOpen) return;
    rmSync(this.path, { force: true });
    this.#acceptor[Symbol.dispose]();
    this.fd[Symbol.dispose]();
  }
}

/** @returns undefined if it throws SysError */
function attempt<T>(body: () => T): T | undefined {
  try {
    return body();
  } catch (error) {
    if (error instanceof SysError) return undefined;
    throw error;
  }
}

/** The process at the other end of a connected socket, as it was when it connected; undefined if that is not known. */
export function peerCredentials(fd: Fd): { readonly pid: number; readonly uid: number } | undefined {
  const ucred = new Int32Array(3);
  const bytes = new Uint8Array(ucred.buffer);
  const length = new Uint8Array(new Int32Array([bytes.length]).buffer);
  if (libc.getsockopt(fd.number, SOL_SOCKET, SO_PEERCRED, bytes, length) < 0) return undefined;
  return { pid: ucred[0] as number, uid: ucred[1] as number };
}

/** Removes a socket file that nothing listens on. @throws SysError EADDRINUSE */
function removeStale(path: string): void {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  const inUse = (hint: string) => new SysError({ call: 'bind', target: path, errno: errno.EADDRINUSE, hint });
  if (!stat.isSocket()) throw inUse('a file of this name exists and is not a socket');
  try {
    connectUnix(path)[Symbol.dispose]();
  } catch (error) {
    if (isErrno(error, 'ECONNREFUSED')) {
      rmSync(path, { force: true });
      return;
    }
    if (!isErrno(error, 'EAGAIN')) throw error;
  }
  throw inUse('another process listens on it: choose another path, or stop that process');
}

/** A pair of connected, blocking stream sockets. @throws SysError EMFILE, ENFILE */
export function unixSocketPair(target: string): readonly [Fd, Fd] {
  const fds = new Int32Array(2);
  const made = libc.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, new Uint8Array(fds.buffer));
  checked(made, 'socketpair', target);
  return [Fd.adopt(fds[0] as number, target), Fd.adopt(fds[1] as number, target)];
}

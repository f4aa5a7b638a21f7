/** The host's end of a port: a pseudo terminal, or a connection to a unix socket. */
import { constants } from 'node:fs';
import { checked, Fd } from '../../sys/fd.js';
import { io, ioctl, ior, iow } from '../../sys/ioctl.js';
import * as libc from '../../sys/libc.js';
import { Scope } from '../../sys/scope.js';
import { connectUnix } from '../../sys/unix-socket.js';
import type { HostEnd } from './messages.js';

/** An open end. All of its fds are nonblocking. */
export interface HostFile extends Disposable {
  /** Path of the terminal or the socket: `/dev/pts/3`. */
  readonly address: string;
  readonly fd: Fd;
  /** Becomes readable when a process opens the other side; undefined if none can. */
  readonly arrivals: Fd | undefined;
  /** Whether the other side is already open. */
  readonly hasPeer: boolean;
}

// asm-generic/ioctls.h
const TCGETS = io('TCGETS', 0x54, 0x01);
const TCSETS = io('TCSETS', 0x54, 0x02);
const TIOCGPTN = ior('TIOCGPTN', 0x54, 0x30, 4);
const TIOCSPTLCK = iow('TIOCSPTLCK', 0x54, 0x31, 4);

/** struct termios: four words of flags, the line discipline, 19 control characters. */
const TERMIOS_BYTES = 36;
const C_CC = 17;
const VTIME = C_CC + 5;
const VMIN = C_CC + 6;
const CS8 = 0o60;
const CREAD = 0o200;
const CSIZE_PARENB = 0o460;

// sys/inotify.h
const IN_OPEN = 0x20;
const IN_NONBLOCK = constants.O_NONBLOCK;
const IN_CLOEXEC = 0o2000000;

/** Opens an end. @throws SysError of the host; nothing is left open */
export function openHostEnd({ kind, path }: HostEnd): HostFile {
  return kind === 'pty' ? openPty() : openUnix(path);
}

function openUnix(path: string): HostFile {
  const fd = connectUnix(path);
  return {
    address: path,
    fd,
    arrivals: undefined,
    hasPeer: true,
    [Symbol.dispose]: () => fd[Symbol.dispose](),
  };
}

/** A pseudo terminal in raw mode. It remains when its user closes it, and can be opened again. */
function openPty(): HostFile {
  using scope = new Scope();
  const flags = constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK;
  const fd = scope.own(Fd.open('/dev/ptmx', flags, 'this system has no pseudo terminals (devpts)'));
  const word = new Uint32Array(1);
  const bytes = new Uint8Array(word.buffer);
  ioctl(fd, TIOCSPTLCK, bytes);
  ioctl(fd, TIOCGPTN, bytes);
  const address = `/dev/pts/${word[0]}`;
  makeRaw(fd);
  // The kernel notifies a master when its terminal is closed, but not when it is opened.
  const arrivals = scope.own(
    Fd.adopt(checked(libc.inotifyInit1(IN_NONBLOCK | IN_CLOEXEC), 'inotify_init1', address), address),
  );
  checked(libc.inotifyAddWatch(arrivals.number, address, IN_OPEN), 'inotify_add_watch', address);
  const owned = scope.move();
  return { address, fd, arrivals, hasPeer: false, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

/** Disables the terminal's echo and its processing of input and output. */
function makeRaw(fd: Fd): void {
  const bytes = new Uint8Array(TERMIOS_BYTES);
  ioctl(fd, TCGETS, bytes);
  const [input, output, control, local] = [0, 1, 2, 3] as const;
  const flags = new Uint32Array(bytes.buffer, 0, 4);
  flags[input] = 0;
  flags[output] = 0;
  flags[local] = 0;
  flags[control] = ((flags[control] as number) & ~CSIZE_PARENB) | CS8 | CREAD;
  bytes[VMIN] = 1;
  bytes[VTIME] = 0;
  ioctl(fd, TCSETS, bytes);
}

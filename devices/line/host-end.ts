/** Opens the host's end of a port. @see host-file.ts, which uses it */
import { constants } from 'node:fs';
import { checked, Fd } from '../../sys/fd.js';
import { io, ioctl, ior, iow } from '../../sys/ioctl.js';
import * as libc from '../../sys/libc.js';
import { Scope } from '../../sys/scope.js';
import { connectUnix, UnixListener } from '../../sys/unix-socket.js';
import type { HostEnd, HostEndNumbers } from './messages.js';

/** An open end. Disposing closes it, and its client's connection. */
export interface OpenHostEnd extends Disposable {
  readonly numbers: HostEndNumbers;
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

/** Whoever may connect can type at the guest: only this user. */
const SOCKET_MODE = 0o600;
const FILE_MODE = 0o666;

/** Opens an end. @throws SysError of the host; nothing is left open */
export function openHostEnd({ kind, path }: HostEnd): OpenHostEnd {
  using scope = new Scope();
  const opened = open(kind, path, scope);
  const client = new Int32Array(new SharedArrayBuffer(8)).fill(-1);
  scope.defer(() => {
    for (const number of client) if (number >= 0) Fd.adopt(number, opened.address)[Symbol.dispose]();
  });
  const writableFd = opened.fd === undefined ? -1 : scope.own(opened.fd.duplicate()).number;
  const numbers: HostEndNumbers = {
    kind,
    address: opened.address,
    fd: opened.fd?.number ?? -1,
    writableFd,
    arrivals: opened.arrivals?.number ?? -1,
    client: client.buffer as SharedArrayBuffer,
  };
  const owned = scope.move();
  return { numbers, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

interface Opened {
  readonly address: string;
  readonly fd?: Fd;
  readonly arrivals?: Fd;
}

function open(kind: HostEnd['kind'], path: string, scope: Scope): Opened {
  switch (kind) {
    case 'pty':
      return openPty(scope);
    case 'connect':
      return { address: path, fd: scope.own(connectUnix(path)) };
    case 'listen':
      return { address: path, arrivals: scope.own(UnixListener.listen(path, SOCKET_MODE)).fd };
    case 'file':
      return { address: path, fd: scope.own(openFile(path)) };
  }
}

/** Nonblocking, for a FIFO or a terminal, whose reader must not hold up the guest. */
function openFile(path: string): Fd {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NONBLOCK, O_NOCTTY } = constants;
  const hint = 'a FIFO needs its reader first; a file needs a folder that exists, and the right to write';
  return Fd.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY, hint, FILE_MODE);
}

/** A pseudo terminal in raw mode. It remains when its user closes it, and can be opened again. */
function openPty(scope: Scope): Opened {
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
  return { address, fd, arrivals };
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

import { constants, readSync } from 'node:fs';
import { Child, sleep } from '../../sys/child.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { checked, type Fd } from '../../sys/fd.js';
import * as libc from '../../sys/libc.js';
import { Scope } from '../../sys/scope.js';
import { connectUnix, unixPathProblem, unixSocketPair } from '../../sys/unix-socket.js';
import { parsePasstOptions } from './passt-options.js';
import type { NetBackend, NetPort } from './port.js';
import { type StreamPeer, StreamPort } from './stream-port.js';

const INSTALL_HINT = 'install it (apt install passt), or take another back-end: net=responder, net=tap:NAME';
const F_SETFL = 4;
/** passt prints its addresses once its options are accepted. A version that does not gets one second. */
const READY = /^MAC:$/m;
const READY_MS = 1000;
/** Maximum characters of its output that are kept. */
const MOST_WORDS = 4096;

/** A passt process of ours. It exits when its socket is closed; close that before disposing this. */
class Passt implements StreamPeer {
  readonly name: string;
  readonly #child: Child;
  readonly #stderr: Fd;
  #said = '';

  /** Takes ownership of both. */
  constructor(child: Child, stderr: Fd) {
    this.name = `passt (pid ${child.pid})`;
    this.#child = child;
    this.#stderr = stderr;
  }

  /** Blocks until passt is ready, a few milliseconds. @throws SysError EINVAL with passt's output if it exits */
  awaitReady(): void {
    for (let waited = 0; waited < READY_MS && !READY.test(this.#listen()); waited++) {
      if (this.#child.hasEnded) {
        throw new SysError({ call: 'start', target: 'passt', errno: errno.EINVAL, hint: this.lastWords() });
      }
      sleep(1);
    }
    this.#said = '';
  }

  lastWords(): string {
    this.#child[Symbol.dispose]();
    const words = this.#listen()
      .split('\n')
      .filter((line) => line !== '' && !/to syslog$/.test(line))
      .join('; ');
    return `it has ended (${this.#child.ending})${words === '' ? '' : `: ${words}`}`;
  }

  #listen(): string {
    const buffer = Buffer.alloc(4096);
    try {
      for (;;) {
        const count = readSync(this.#stderr.number, buffer);
        if (count === 0) break;
        this.#said = (this.#said + buffer.toString('latin1', 0, count)).slice(-MOST_WORDS);
      }
    } catch {} // EAGAIN: no more output for now
    return this.#said;
  }

  [Symbol.dispose](): void {
    this.#child[Symbol.dispose]();
    this.#stderr[Symbol.dispose]();
  }
}

/** Makes both ends non-blocking. */
function unblock(...ends: readonly Fd[]): void {
  for (const { number, target } of ends)
    checked(libc.fcntl(number, F_SETFL, constants.O_NONBLOCK), 'fcntl F_SETFL', target);
}

function startPasst(program: string, args: readonly string[]): NetPort {
  using scope = new Scope();
  const own = ([ours, its]: readonly [Fd, Fd]) => [scope.own(ours), scope.own(its)] as const;
  const [stderr, itsStderr] = own(unixSocketPair('passt stderr'));
  // Output that does not fit in the buffer is lost, rather than blocking passt.
  unblock(stderr, itsStderr);
  const [socket, itsSocket] = own(unixSocketPair('passt'));
  unblock(socket);
  const child = Child.start(program, {
    args: ['--foreground', '--one-off', '--fd=3', ...args],
    stderr: itsStderr,
    fds: [itsSocket],
    hint: INSTALL_HINT,
  });
  const passt = scope.own(new Passt(child, stderr));
  scope.defer(() => socket[Symbol.dispose]());
  itsStderr[Symbol.dispose]();
  itsSocket[Symbol.dispose]();
  passt.awaitReady();
  const port = new StreamPort(socket, passt);
  scope.move(); // the port owns them from here
  return port;
}

/** The back-end `passt`, running `program` instead of passt. */
export function passtProgram(program: string): NetBackend {
  const problemOf = (address: string): string | undefined => {
    const args = parsePasstOptions(address);
    return typeof args === 'string' ? args : undefined;
  };
  return {
    name: 'passt',
    validate: problemOf,
    open(address) {
      const args = parsePasstOptions(address);
      if (typeof args === 'string') throw new TypeError(args);
      return startPasst(program, args);
    },
  };
}

/**
 * Back-end `passt:OPTIONS`: user-mode access to the host's network without root. Starts the program passt with the port
 * and stops it with it. The guest gets the host's addresses by DHCP and reaches what the host reaches; the gateway's
 * address leads to the host itself. @see parsePasstOptions. Opening throws SysError ENOENT if passt is not installed,
 * EINVAL with its output if it exits.
 */
export const passt: NetBackend = passtProgram('passt');

/**
 * Back-end `passt-socket:PATH`: connects to a running passt, or a QEMU's `-netdev stream`, that listens on a unix
 * socket. Opening throws SysError from connect(2).
 */
export const passtSocket: NetBackend = {
  name: 'passt-socket',
  validate: unixPathProblem,
  open(address) {
    const problem = unixPathProblem(address);
    if (problem !== undefined) throw new TypeError(problem);
    const socket = connectUnix(address);
    return new StreamPort(socket, {
      name: `passt at ${address}`,
      lastWords: () => 'it has closed the connection',
      [Symbol.dispose]() {},
    });
  },
};

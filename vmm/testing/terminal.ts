/** For tests: a program whose stdin and stdout are a terminal of its own, and what a person types and sees there. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { openHostEnd } from '../../devices/line/host-end.js';
import { isErrno } from '../../sys/error.js';

/** A screen without size or colours: what a nonblocking descriptor of a terminal has printed. */
export class Screen {
  readonly #fd: number;
  readonly #buffer = Buffer.alloc(4096);
  #text = '';
  /** How much of the text {@link says} has passed. */
  #at = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** All that was printed, as latin1. */
  get text(): string {
    this.#read();
    return this.#text;
  }

  /**
   * Types without waiting for what comes of it; what the terminal cannot take yet waits for room, and its output is read.
   * @throws the error of write(2)
   */
  async types(keys: string | Uint8Array): Promise<void> {
    const bytes = typeof keys === 'string' ? Buffer.from(keys, 'latin1') : keys;
    for (let at = 0; at < bytes.length; ) {
      try {
        at += writeSync(this.#fd, bytes, at);
      } catch (error) {
        if (!isErrno(error, 'EAGAIN')) throw error;
        this.#read();
        await sleep(1);
      }
    }
  }

  /**
   * Waits for `wanted` after what the last call waited for.
   * @returns the text between the two
   * @throws Error with the screen at the time limit
   */
  async says(wanted: string | RegExp, limitMs = 20_000): Promise<string> {
    const end = performance.now() + limitMs;
    for (;;) {
      const rest = this.text.slice(this.#at);
      const found = typeof wanted === 'string' ? rest.indexOf(wanted) : rest.search(wanted);
      if (found >= 0) {
        const length = typeof wanted === 'string' ? wanted.length : (wanted.exec(rest)?.[0].length ?? 0);
        this.#at += found + length;
        return rest.slice(0, found);
      }
      if (performance.now() > end) throw new Error(`the screen does not say ${wanted}:\n${this.#text}`);
      await sleep(5);
    }
  }

  #read(): void {
    for (;;) {
      try {
        const count = readSync(this.#fd, this.#buffer);
        if (count === 0) return;
        this.#text += this.#buffer.toString('latin1', 0, count);
      } catch {
        return; // EAGAIN; EIO once nobody has the other side open
      }
    }
  }
}

/** The other side of a terminal that a program has made: `/dev/pts/N`. Disposing closes it. */
export function openTerminal(path: string): Screen & Disposable {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  return Object.assign(new Screen(fd), { [Symbol.dispose]: () => closeSync(fd) });
}

export interface AtTerminal extends Disposable {
  readonly screen: Screen;
  readonly child: ChildProcess;
  /** Resolves with exit code and signal. */
  readonly ended: Promise<unknown[]>;
  /** The terminal's mode now, as one line. */
  mode(): string;
  /** Its mode before the program ran. */
  readonly before: string;
  /** What came on stderr, which is no terminal. */
  errors(): string;
}

/**
 * Runs a program at a terminal. Disposing kills it, and closes the terminal.
 * @param command Node by default
 */
export function atTerminal(
  args: readonly string[],
  { command = process.execPath, cwd }: { readonly command?: string; readonly cwd?: string } = {},
): AtTerminal {
  const end = openHostEnd({ kind: 'pty', path: '' });
  const slave = openSync(end.numbers.address, constants.O_RDWR | constants.O_NOCTTY);
  const mode = () =>
    spawnSync('stty', ['-g'], { stdio: [slave, 'pipe', 'inherit'], encoding: 'utf8' }).stdout;
  const before = mode();
  const child: ChildProcess = spawn(command, args, { cwd, stdio: [slave, slave, 'pipe'] });
  const ended = once(child, 'exit');
  let errors = '';
  child.stderr?.on('data', (piece) => {
    errors += String(piece);
  });
  return {
    screen: new Screen(end.numbers.fd),
    child,
    ended,
    mode,
    before,
    errors: () => errors,
    [Symbol.dispose]() {
      child.kill('SIGKILL');
      closeSync(slave);
      end[Symbol.dispose]();
    },
  };
}

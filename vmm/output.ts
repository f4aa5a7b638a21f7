/** Standard output or error of a command. A guest can produce text without end, and a report that nobody got is no success. */
import { fstatSync, writeSync } from 'node:fs';
import { fromNodeError, isErrno } from '../sys/error.js';
import { SIGNAL_STATUS } from './outcome.js';

/** From sysexits.h: an error of the output. */
export const EX_IOERR = 74;

/** More of it can wait than one machine sends unread (event-flow.ts), but a guest can restart its machine for ever. */
const MOST_WAITING_BYTES = 8 << 20;

/** What {@link Output} uses of process.stdout. */
export type OutputStream = Pick<NodeJS.WriteStream, 'write' | 'on' | 'once' | 'off' | 'writableLength'> & {
  readonly fd?: number;
};

/**
 * A stream whose reader may be slow, or not read at all. The first failure is kept, passed to {@link onFailure}, and ends all
 * output. A closed pipe is a failure without a message, like a death by SIGPIPE.
 */
export class Output {
  /** Called once, with the error. */
  onFailure: (error: Error) => void = () => {};
  readonly #stream: OutputStream;
  /** Its descriptor, if it is a file or a device. */
  readonly #file: number | undefined;
  #failure: Error | undefined;
  #dropped = 0;
  #draining: Promise<void> | undefined;

  constructor(stream: OutputStream = process.stdout) {
    this.#stream = stream;
    this.#file = fileOf(stream);
    stream.on('error', (error) => this.#fail(error));
  }

  /**
   * Writes to the stream. While it cannot take more, returns a promise of the time when it can. Drops the text, and says so
   * later, if nobody has read the last 8 MiB.
   */
  write(text: string | Uint8Array): Promise<void> | undefined {
    if (this.#failure !== undefined) return undefined;
    if (this.#file !== undefined) {
      this.#writeFile(this.#file, text);
      return undefined;
    }
    if (this.#stream.writableLength > MOST_WAITING_BYTES) {
      this.#dropped++;
      return undefined;
    }
    if (this.#dropped > 0) {
      this.#stream.write(`tsvisor: ${this.#dropped} pieces of output were dropped, as nobody read them\n`);
      this.#dropped = 0;
    }
    if (this.#stream.write(text)) return undefined;
    this.#draining ??= this.#drain();
    return this.#draining;
  }

  /** As {@link write}, and ends the line. */
  line(text: string): Promise<void> | undefined {
    return this.write(`${text}\n`);
  }

  /** Waits until all of it is written. Returns false at the timeout, with the rest still waiting for its reader. */
  flush(timeoutMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      if (this.#stream.writableLength === 0) {
        resolve(true);
        return;
      }
      const timer = setTimeout(() => resolve(false), timeoutMs);
      this.#stream.write('', () => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }

  /** The exit status that a failure makes, once all is written; undefined without one. Reports it on stderr. */
  async end(): Promise<number | undefined> {
    if (this.#file === undefined && this.#failure === undefined)
      await new Promise<void>((written) => this.#stream.write('', () => written()));
    if (this.#failure === undefined) return undefined;
    if (isErrno(this.#failure, 'EPIPE')) return SIGNAL_STATUS.SIGPIPE;
    console.error(`tsvisor: ${(fromNodeError(this.#failure, 'write', 'stdout') as Error).message}`);
    return EX_IOERR;
  }

  /** One promise for all who wait: each listener of its own would be one too many for Node's leak warning. */
  #drain(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#stream.off('drain', done).off('close', done);
        this.#draining = undefined;
        resolve();
      };
      this.#stream.once('drain', done).once('close', done);
    });
  }

  #writeFile(file: number, text: string | Uint8Array): void {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.onFailure(error);
  }
}

/** The descriptor of a file or a device: written here, since Node's stream for them hides errors. Not of a pipe or terminal. */
function fileOf({ fd }: OutputStream): number | undefined {
  if (fd === undefined) return undefined;
  try {
    // As bigint, whose values are kept apart: Node takes the mode of the last stat otherwise for that of a folder when it then
    // resolves a module, and a pipe's ends the search for symbolic links (fs.realpathSync).
    const stats = fstatSync(fd, { bigint: true });
    return stats.isFile() || (stats.isCharacterDevice() && !isTerminal(fd)) ? fd : undefined;
  } catch {
    return undefined;
  }
}

/** Loaded here: every thread has this file, and only the main thread prints. */
const isTerminal = (fd: number): boolean => process.getBuiltinModule('node:tty').isatty(fd);

let errors: Output | undefined;

/** Standard error. That it is closed is no failure of a command: nothing could report it. */
export const errorOutput = (): Output => {
  errors ??= new Output(process.stderr);
  return errors;
};

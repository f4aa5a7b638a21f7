/** Standard output or error of a command, for text that a guest can produce without end. */

/** More of it can wait than one machine sends unread (event-flow.ts), but a guest can restart its machine for ever. */
const MOST_WAITING_BYTES = 8 << 20;

/** What {@link Output} uses of process.stdout. */
export type OutputStream = Pick<NodeJS.WriteStream, 'write' | 'once' | 'off' | 'writableLength'>;

/** A stream whose reader may be slow, or not read at all. */
export class Output {
  readonly #stream: OutputStream;
  #dropped = 0;
  #draining: Promise<void> | undefined;

  constructor(stream: OutputStream) {
    this.#stream = stream;
  }

  /**
   * Writes to the stream. While it cannot take more, returns a promise of the time when it can. Drops the text, and says so
   * later, if nobody has read the last 8 MiB.
   */
  write(text: string | Uint8Array): Promise<void> | undefined {
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
}

/** A guest's line is printed in pieces of this many characters if it does not end. */
const LINE_CHARACTERS = 4096;

/** Prints the guest's output line by line. */
export class LineSplitter {
  readonly #print: (line: string) => Promise<void> | undefined;
  #rest = '';

  constructor(print: (line: string) => Promise<void> | undefined) {
    this.#print = print;
  }

  /** Returns what the last line's printing does. */
  push(bytes: Uint8Array): Promise<void> | undefined {
    const lines = (this.#rest + Buffer.from(bytes).toString('latin1')).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length >= LINE_CHARACTERS) {
      lines.push(this.#rest);
      this.#rest = '';
    }
    let printing: Promise<void> | undefined;
    for (const line of lines) printing = this.#print(line.replace(/\r$/, ''));
    return printing;
  }
}

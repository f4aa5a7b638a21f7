/** Standard output or error of a command, for text that a guest can produce without end. */

/** A stream whose reader may be slow, or not read at all. */
export class Output {
  readonly #stream: NodeJS.WriteStream;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** Writes to the stream. While it cannot take more, returns a promise of the time when it can. */
  write(text: string | Uint8Array): Promise<void> | undefined {
    if (this.#stream.write(text)) return undefined;
    return new Promise((resolve) => this.#stream.once('drain', resolve).once('close', resolve));
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

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

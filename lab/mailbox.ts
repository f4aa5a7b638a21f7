/**
 * Splits what L1's agent sends into the output of commands and their trailers: 0x1e `LAB NUMBER STATUS` 0x1e.
 * A trailer may come in pieces; output is handed on as soon as it cannot be the start of one.
 */
export class MailboxReader {
  #pending = Buffer.alloc(0);
  readonly #onOutput: (bytes: Buffer) => void;
  readonly #onEnd: (number: number, status: number) => void;

  constructor(onOutput: (bytes: Buffer) => void, onEnd: (number: number, status: number) => void) {
    this.#onOutput = onOutput;
    this.#onEnd = onEnd;
  }

  push(bytes: Uint8Array): void {
    let rest = Buffer.concat([this.#pending, bytes]);
    while (rest.length > 0) {
      const mark = rest.indexOf(0x1e);
      const plain = mark < 0 ? rest.length : mark;
      if (plain > 0) this.#onOutput(rest.subarray(0, plain));
      rest = rest.subarray(plain);
      const end = rest.indexOf(0x1e, 1);
      // The longest trailer is shorter than 32 bytes: what is longer is output that has the mark in it.
      if (end < 0 && rest.length < 32) break;
      const trailer = /^LAB (\d+) (\d+)$/.exec(rest.subarray(1, Math.max(end, 1)).toString('latin1'));
      if (trailer) {
        rest = rest.subarray(end + 1);
        this.#onEnd(Number(trailer[1]), Number(trailer[2]));
      } else {
        this.#onOutput(rest.subarray(0, 1));
        rest = rest.subarray(1);
      }
    }
    this.#pending = rest;
  }
}

/**
 * Splits the stream from L1's agent into commands' output and trailers: 0x1e `LAB NUMBER STATUS` 0x1e. A trailer may
 * arrive in pieces; output is passed on as soon as it cannot be the start of one.
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
      // A trailer is shorter than 32 bytes; anything longer is output that contains the mark.
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

/**
 * The stream of a machine that moves: frames, each with a kind, a length, and its data. What the other end sends is untrusted: a length
 * is bounded before anything is read for it, and each wait has an end.
 *
 *   u32 kind, u32 length, data; little-endian
 */
import type { Duplex } from 'node:stream';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { printable } from '../../sys/printable.js';

/** Kinds of frames. */
export const FRAME = {
  // From the machine that moves.
  /** "tsvmove\0", u32 format. */
  hello: 1,
  /** The configuration, JSON. */
  config: 2,
  /** u64 offset in memory, whole pages. */
  pages: 3,
  /** u64 offset, u64 length of pages that are zero, {@link PIECE_BYTES} at most. */
  zeros: 4,
  /** u8 length of a device's place, the place, a piece of its state: of a device that is copied while it runs. */
  device: 8,
  /** A piece of the state, {@link PIECE_BYTES} but for the last one. */
  state: 5,
  /** u32 CRC-32 of the state: nothing follows but one of the two below. */
  end: 6,
  /** The last word: it will not run here any more. */
  go: 7,
  // From where it moves to.
  /** It has devices and memory. */
  ready: 16,
  /** It has taken over all of the state. */
  loaded: 17,
  /** It runs. */
  running: 18,
  // From either.
  /** Why it ends here, for a person. */
  failed: 32,
} as const;

const NAMES = new Map<number, string>(Object.entries(FRAME).map(([name, kind]) => [kind, name]));
const nameOf = (kind: number): string => NAMES.get(kind) ?? `frame of kind ${kind}`;

const HEADER_BYTES = 8;
/** Bytes of memory in one frame. */
export const PIECE_BYTES = 256 << 10;
/** Most bytes of each kind. */
const MOST_BYTES: Readonly<Record<number, number>> = {
  [FRAME.hello]: 12,
  [FRAME.config]: 1 << 20,
  [FRAME.pages]: 8 + PIECE_BYTES,
  [FRAME.zeros]: 16,
  [FRAME.device]: 1 + 255 + PIECE_BYTES,
  [FRAME.state]: PIECE_BYTES,
  [FRAME.end]: 4,
  [FRAME.go]: 0,
  [FRAME.ready]: 0,
  [FRAME.loaded]: 0,
  [FRAME.running]: 0,
  [FRAME.failed]: 4096,
};

export interface Frame {
  readonly kind: number;
  readonly data: Buffer;
}

/** One end of the stream. Main thread. */
export class FrameStream implements Disposable {
  readonly #stream: Duplex;
  readonly #target: string;
  readonly #timeoutMs: number;
  #failure: Error | undefined;
  /** Rejects what waits. */
  #fail: ((error: Error) => void) | undefined;
  /** What waits for an event. */
  readonly #wake: { readable?: (() => void) | undefined; drain?: (() => void) | undefined } = {};
  #sent = 0;

  /**
   * Takes ownership of a connection. @param target names it in errors
   * @param timeoutMs how long a read or a write may wait for the other end
   */
  constructor(stream: Duplex, target: string, timeoutMs: number) {
    this.#stream = stream;
    this.#target = target;
    this.#timeoutMs = timeoutMs;
    stream.on('error', (error: NodeJS.ErrnoException) =>
      this.cancel(this.#lost(error.code ?? error.message)),
    );
    // Listeners for good: one that is added while there is data is called at once, and so for ever.
    for (const event of ['readable', 'end']) stream.on(event, () => this.#wake.readable?.());
    stream.on('drain', () => this.#wake.drain?.());
    stream.on('end', () => this.cancel(this.#lost('the other end has closed it')));
    stream.on('close', () => this.cancel(this.#lost('it was closed')));
  }

  /** Bytes that have been sent. */
  get sentBytes(): number {
    return this.#sent;
  }

  /** Resolves if nothing is known by now that has ended it. @throws that */
  async check(): Promise<void> {
    this.#stream.read(0); // else an end is not noticed
    await new Promise(setImmediate);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Ends every wait, now and later, with this error; the first one counts. */
  cancel(error: Error): void {
    this.#failure ??= error;
    this.#fail?.(this.#failure);
  }

  /**
   * Reads the next frame, which is one of these kinds.
   * @throws SysError EPROTO for another frame, one that is too long, or what the other end says it has failed with; ECONNRESET if the
   *   connection ends; ETIMEDOUT; what it was cancelled with
   */
  async next(...kinds: readonly number[]): Promise<Frame> {
    const header = await this.#take(HEADER_BYTES);
    const [kind, bytes] = [header.readUInt32LE(0), header.readUInt32LE(4)];
    const wanted = kinds.map(nameOf).join(' or ');
    const most = MOST_BYTES[kind];
    if (most === undefined || (kind !== FRAME.failed && !kinds.includes(kind)))
      throw this.#wrong(`it sent '${nameOf(kind)}', where ${wanted} is due`);
    if (bytes > most) throw this.#wrong(`'${nameOf(kind)}' of ${bytes} bytes, where ${most} are allowed`);
    const data = bytes === 0 ? Buffer.alloc(0) : await this.#take(bytes);
    if (kind !== FRAME.failed) return { kind, data };
    throw this.#wrong(`the other end has given up: ${printable(data.toString())}`);
  }

  /** Sends a frame; resolves once the connection has room for more. @throws as {@link next} */
  async send(kind: number, ...parts: readonly Uint8Array[]): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    if (bytes > (MOST_BYTES[kind] as number)) throw new RangeError(`${nameOf(kind)} of ${bytes} bytes`);
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(kind, 0);
    header.writeUInt32LE(bytes, 4);
    this.#sent += HEADER_BYTES + bytes;
    // A copy: the guest changes what is still to be written.
    const hasRoom = this.#stream.write(Buffer.concat([header, ...parts]));
    if (!hasRoom) await this.#wait('drain', 'it takes nothing');
  }

  /** Tells the other end why this one gives up, as far as that goes, and closes the connection. */
  fail(error: unknown): void {
    const text = Buffer.from((error as Error).message).subarray(0, MOST_BYTES[FRAME.failed]);
    if (!this.#stream.destroyed && this.#stream.writable) {
      const header = Buffer.alloc(HEADER_BYTES);
      header.writeUInt32LE(FRAME.failed, 0);
      header.writeUInt32LE(text.length, 4);
      this.#stream.write(Buffer.concat([header, text]));
    }
    this.#stream.end();
    setTimeout(() => this.#stream.destroy(), CLOSING_MS).unref();
  }

  /** Closes the connection, once what was sent is on its way. */
  [Symbol.dispose](): void {
    this.#stream.end();
    setTimeout(() => this.#stream.destroy(), CLOSING_MS).unref();
  }

  async #take(bytes: number): Promise<Buffer> {
    for (;;) {
      if (this.#failure !== undefined && this.#stream.readableLength < bytes) throw this.#failure;
      const got = this.#stream.read(bytes) as Buffer | null;
      if (got !== null && got.length === bytes) return got;
      if (got !== null || this.#stream.readableEnded) throw this.#lost('it ended inside a frame');
      await this.#wait('readable', 'it sends nothing');
    }
  }

  #wait(event: 'readable' | 'drain', what: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        clearTimeout(timer);
        this.#wake[event] = undefined;
        this.#fail = undefined;
        act();
      };
      const timer = setTimeout(() => {
        const hint = `${what} for ${this.#timeoutMs} ms`;
        settle(() => reject(new SysError({ ...this.#call, errno: errno.ETIMEDOUT, hint })));
      }, this.#timeoutMs);
      this.#wake[event] = () => settle(resolve);
      this.#fail = (error) => settle(() => reject(error));
      if (this.#failure !== undefined) this.#fail(this.#failure);
    });
  }

  get #call() {
    return { call: 'move', target: this.#target };
  }

  #wrong(hint: string): SysError {
    return new SysError({ ...this.#call, errno: errno.EPROTO, hint });
  }

  #lost(why: string): SysError {
    const hint = `the connection is lost: ${why}`;
    return new SysError({ ...this.#call, errno: errno.ECONNRESET, hint });
  }
}

/** How long a connection that is being closed has to send what is left. */
const CLOSING_MS = 2000;

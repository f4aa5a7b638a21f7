/** A viewer of VNC: RFB 3.8 with raw pixels (RFC 6143). What the server sends is not trusted. */
import type { Duplex } from 'node:stream';

/** Most pixels of a side: the memory for a picture is bounded. */
const MOST_SIDE = 4096;
const MOST_TEXT = 4096;
const MOST_RECTANGLES = 65_535;
const RAW = 0;
const SECURITY_NONE = 1;

/** Called with the whole picture after each update: 4 bytes per pixel, blue first. */
export type Updated = (pixels: Uint8Array, stride: number) => void;

/** Bytes of a stream, by count. */
class Reader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(stream: Duplex) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** @throws Error if the stream ends before */
  async take(count: number): Promise<Buffer> {
    const parts = [this.#rest];
    let has = this.#rest.length;
    while (has < count) {
      const { value, done } = await this.#chunks.next();
      if (done === true) throw new Error('the VNC server has closed the connection');
      parts.push(Buffer.from(value));
      has += value.length;
    }
    const all = parts.length === 1 ? this.#rest : Buffer.concat(parts);
    this.#rest = all.subarray(count);
    return all.subarray(0, count);
  }

  /** Reads bytes of which nobody wants to know. */
  async skip(count: number): Promise<void> {
    for (let left = count; left > 0; left -= 65_536) await this.take(Math.min(left, 65_536));
  }
}

/** A connection to a VNC server, after the handshake. */
export class RfbClient {
  readonly width: number;
  readonly height: number;
  readonly #stream: Duplex;
  readonly #reader: Reader;
  readonly #pixels: Buffer;

  private constructor(stream: Duplex, reader: Reader, width: number, height: number) {
    [this.#stream, this.#reader, this.width, this.height] = [stream, reader, width, height];
    this.#pixels = Buffer.alloc(4 * width * height);
  }

  /** @throws Error if the server wants a password, has no picture of a usable size, or speaks something else */
  static async connect(stream: Duplex): Promise<RfbClient> {
    const reader = new Reader(stream);
    const version = (await reader.take(12)).toString('latin1');
    if (!/^RFB 003\.\d{3}\n$/.test(version) || version < 'RFB 003.008\n')
      throw new Error(`not a server of RFB 3.8: ${JSON.stringify(version)}`);
    stream.write('RFB 003.008\n');
    const types = await reader.take((await reader.take(1)).readUInt8());
    if (!types.includes(SECURITY_NONE))
      throw new Error('the VNC server does not offer a connection without password');
    stream.write(Uint8Array.of(SECURITY_NONE));
    if ((await reader.take(4)).readUInt32BE() !== 0) throw new Error('the VNC server refuses the connection');
    stream.write(Uint8Array.of(1)); // shared
    const init = await reader.take(24);
    const [width, height, text] = [init.readUInt16BE(0), init.readUInt16BE(2), init.readUInt32BE(20)];
    if (width === 0 || height === 0 || width > MOST_SIDE || height > MOST_SIDE || text > MOST_TEXT)
      throw new Error(`the VNC server has ${width} x ${height} pixels and a name of ${text} bytes`);
    await reader.take(text);
    const format = Buffer.from([0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    stream.write(Buffer.concat([format, Buffer.from([2, 0, 0, 1, 0, 0, 0, RAW])]));
    return new RfbClient(stream, reader, width, height);
  }

  /** Requests each change as soon as the last one is there, until the connection ends. @throws Error for its cause */
  async follow(updated: Updated): Promise<never> {
    this.#request(false);
    for (;;) {
      const kind = (await this.#reader.take(1)).readUInt8();
      if (kind === 0) {
        await this.#takeUpdate();
        this.#request(true);
        updated(this.#pixels, 4 * this.width);
      } else if (kind === 1) {
        const head = await this.#reader.take(5);
        await this.#reader.skip(6 * head.readUInt16BE(3));
      } else if (kind === 3) {
        const length = (await this.#reader.take(7)).readUInt32BE(3);
        if (length > MOST_TEXT) throw new Error(`a clipboard of ${length} bytes`);
        await this.#reader.skip(length);
      } else if (kind !== 2) throw new Error(`an unknown message, ${kind}`);
    }
  }

  #request(isIncremental: boolean): void {
    const request = Buffer.from([3, Number(isIncremental), 0, 0, 0, 0, 0, 0, 0, 0]);
    request.writeUInt16BE(this.width, 6);
    request.writeUInt16BE(this.height, 8);
    this.#stream.write(request);
  }

  async #takeUpdate(): Promise<void> {
    const count = (await this.#reader.take(3)).readUInt16BE(1);
    for (let i = 0; i < Math.min(count, MOST_RECTANGLES); i++) {
      const head = await this.#reader.take(12);
      const [x = 0, y = 0, width = 0, height = 0] = [0, 2, 4, 6].map((at) => head.readUInt16BE(at));
      const encoding = head.readInt32BE(8);
      if (encoding !== RAW) throw new Error(`pixels in an encoding not asked for, ${encoding}`);
      if (x + width > this.width || y + height > this.height)
        throw new Error(`${width} x ${height} pixels at ${x}, ${y} of ${this.width} x ${this.height}`);
      const data = await this.#reader.take(4 * width * height);
      for (let row = 0; row < height; row++)
        data.copy(this.#pixels, 4 * ((y + row) * this.width + x), 4 * row * width, 4 * (row + 1) * width);
    }
  }
}

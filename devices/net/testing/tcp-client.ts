import { type DecodedTcp, tcp } from './frames.js';

export interface TcpClientOptions {
  readonly iss: number;
  readonly data: Uint8Array;
  /** Size of the receive buffer, below 64 KiB. */
  readonly window: number;
  readonly mss: number;
}

/**
 * A plain active opener for tests: it sends `data` and a FIN, reads the echo, and checks that the host follows the
 * protocol. It keeps only data that arrives in order. Positions count from 0 (the SYN); data byte i is position i + 1.
 */
export class TcpClient {
  readonly received: number[] = [];
  isReset = false;
  hasPeerFin = false;
  readonly #options: TcpClientOptions;
  readonly #sourcePort = 40_000;
  #una = 0;
  #nxt = 0;
  #max = 0;
  /** First position past the host's window. */
  #peerEdge = 1;
  #peerIss: number | undefined;
  #rcvNxt = 0;
  #unread = 0;
  /** First position of the host's stream past every window this client announced. */
  #edge = 0;
  #hostEdge = 0;

  constructor(options: TcpClientOptions) {
    this.#options = options;
  }

  get #last(): number {
    return this.#options.data.length + 1;
  }

  get isDone(): boolean {
    return this.hasPeerFin && this.#una > this.#last;
  }

  /**
   * Called on each segment in the order that the host sends them, before the network loses or reorders any: checks that
   * it breaks no promise.
   */
  inspect(segment: DecodedTcp): void {
    if (segment.flags.includes('RST')) return;
    this.#peerIss ??= segment.seq;
    const ack = (segment.ack - this.#options.iss) | 0;
    claim(ack >= 0 && ack <= this.#max, `acknowledges ${ack} of ${this.#max}`);
    claim(ack + segment.window >= this.#hostEdge, 'takes back a window it gave');
    this.#hostEdge = ack + segment.window;
    if (segment.flags.includes('SYN')) return;
    const seq = (segment.seq - this.#peerIss) | 0;
    const length = segment.data.length + (segment.flags.includes('FIN') ? 1 : 0);
    claim(segment.data.length <= this.#options.mss, 'is larger than the MSS');
    claim(
      seq + length <= this.#edge || length <= 1,
      `reaches ${seq + length}, beyond the window's end ${this.#edge}`,
    );
    for (const [i, byte] of segment.data.entries()) {
      claim(byte === this.#options.data[seq - 1 + i], `carries a wrong byte at ${seq + i}`);
    }
    claim(seq - 1 + segment.data.length <= this.#max - 1, 'echoes what was never sent');
    if (segment.flags.includes('FIN')) claim(seq + length === this.#last + 1, 'ends early');
  }

  /** Handles a segment that arrived. Returns the frames to send. */
  take(segment: DecodedTcp): Uint8Array[] {
    if (segment.flags.includes('RST')) {
      if (!this.isDone) this.isReset = true;
      return [];
    }
    const ack = (segment.ack - this.#options.iss) | 0;
    this.#una = Math.max(this.#una, ack);
    this.#nxt = Math.max(this.#nxt, this.#una);
    this.#peerEdge = Math.max(this.#peerEdge, ack + segment.window);
    if (segment.flags.includes('SYN')) {
      this.#rcvNxt = Math.max(this.#rcvNxt, 1);
      return [this.#acknowledge()];
    }
    if (this.#rcvNxt === 0) return [];
    const seq = (segment.seq - this.#peerIss!) | 0;
    const hasFin = segment.flags.includes('FIN');
    const known = this.#rcvNxt - seq;
    if (known >= 0 && !this.hasPeerFin) {
      const room = this.#options.window - this.#unread;
      const fresh = segment.data.slice(known, known + room);
      this.received.push(...fresh);
      this.#unread += fresh.length;
      this.#rcvNxt += fresh.length;
      if (hasFin && seq + segment.data.length === this.#rcvNxt && room > fresh.length) {
        this.hasPeerFin = true;
        this.#rcvNxt++;
      }
    }
    return segment.data.length > 0 || hasFin ? [this.#acknowledge()] : [];
  }

  /** Reads as the application. Returns the window update. */
  read(bytes: number): Uint8Array[] {
    if (this.#unread === 0) return [];
    this.#unread -= Math.min(bytes, this.#unread);
    return [this.#acknowledge()];
  }

  /** Sends up to `segments` segments of new data, as far as the host's window allows. */
  push(segments: number): Uint8Array[] {
    if (this.#nxt === 0) return [this.#segment(0, 1)];
    if (this.#rcvNxt === 0) return [];
    const frames: Uint8Array[] = [];
    for (let i = 0; i < segments; i++) {
      const length = Math.min(this.#options.mss, this.#last + 1 - this.#nxt, this.#peerEdge - this.#nxt);
      if (length <= 0) break;
      frames.push(this.#segment(this.#nxt, length));
    }
    return frames;
  }

  /** Retransmission timeout: resends the oldest segment, or a window probe, or a bare ACK. */
  timeout(): Uint8Array[] {
    if (this.#una === 0) return [this.#segment(0, 1)];
    if (this.#rcvNxt === 0) return [];
    const length = Math.min(
      this.#options.mss,
      this.#last + 1 - this.#una,
      Math.max(1, this.#peerEdge - this.#una),
    );
    return length > 0 ? [this.#segment(this.#una, length)] : [this.#acknowledge()];
  }

  #segment(from: number, length: number): Uint8Array {
    const end = from + length;
    this.#nxt = Math.max(this.#nxt, end);
    this.#max = Math.max(this.#max, end);
    if (from === 0) {
      const { mss } = this.#options;
      return this.#frame('SYN', 0, new Uint8Array(), Uint8Array.of(2, 4, mss >> 8, mss & 255));
    }
    const hasFin = end === this.#last + 1;
    const data = this.#options.data.slice(from - 1, end - 1);
    return this.#frame(hasFin ? 'FIN ACK' : 'ACK', from, data);
  }

  #acknowledge(): Uint8Array {
    return this.#frame('ACK', this.#nxt, new Uint8Array());
  }

  #frame(flags: string, position: number, data: Uint8Array, tcpOptions = new Uint8Array()): Uint8Array {
    const window = this.#options.window - this.#unread;
    this.#edge = Math.max(this.#edge, Math.max(this.#rcvNxt, 1) + window);
    return tcp(data, {
      sourcePort: this.#sourcePort,
      seq: (this.#options.iss + position) >>> 0,
      ack: flags === 'SYN' ? 0 : ((this.#peerIss ?? 0) + this.#rcvNxt) >>> 0,
      flags,
      window,
      tcpOptions,
    });
  }
}

function claim(condition: boolean, what: string): void {
  if (!condition) throw new Error(`a segment of the host ${what}`);
}

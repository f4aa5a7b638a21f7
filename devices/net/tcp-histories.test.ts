import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type DecodedTcp, decode, tcp } from './testing/frames.js';
import { TcpClient } from './testing/tcp-client.js';
import { drain, openResponder } from './testing/wire.js';

/** Events on the wire and at the client. */
const EVENTS = [
  'client sends',
  'client reads',
  'client timer',
  'host hears',
  'host hears twice',
  'wire to host loses',
  'client hears',
  'client hears twice',
  'wire to client loses',
] as const;

interface Step {
  readonly event: (typeof EVENTS)[number];
  readonly pick: number;
}

const steps = fc.array(fc.record({ event: fc.constantFrom(...EVENTS), pick: fc.nat(1000) }), {
  maxLength: 400,
});
const sequence = fc.oneof(fc.nat(0xffffffff), fc.integer({ min: 0xffff8000, max: 0xffffffff }));

class Exchange {
  readonly client: TcpClient;
  readonly #toHost: Uint8Array[] = [];
  readonly #toClient: DecodedTcp[] = [];
  readonly #port;
  #time = 0;

  constructor(client: TcpClient, hostIss: number) {
    this.client = client;
    this.#port = openResponder('', { now: () => this.#time, initialSequence: () => hostIss });
  }

  play({ event, pick }: Step): void {
    const { client } = this;
    if (event === 'client sends') this.#toHost.push(...client.push(1 + (pick % 8)));
    else if (event === 'client reads') this.#toHost.push(...client.read(pick * 8));
    else if (event === 'client timer') this.#tick(pick, 500);
    else if (event === 'host hears') this.#hostHears(take(this.#toHost, pick));
    else if (event === 'host hears twice') this.#hostHears(this.#toHost[pick % this.#toHost.length]);
    else if (event === 'wire to host loses') take(this.#toHost, pick);
    else if (event === 'client hears') this.#clientHears(take(this.#toClient, pick));
    else if (event === 'client hears twice') this.#clientHears(this.#toClient[pick % this.#toClient.length]);
    else take(this.#toClient, pick);
  }

  /** Delivers everything from here on, in order and without loss. */
  finish(): void {
    for (let round = 0; round < 3000 && !this.client.isDone && !this.client.isReset; round++) {
      this.#toHost.push(...this.client.push(4), ...this.client.read(65_536));
      if (this.#toHost.length + this.#toClient.length === 0) this.#tick(0, 61_000);
      while (this.#toHost.length > 0) this.#hostHears(this.#toHost.shift());
      while (this.#toClient.length > 0) this.#clientHears(this.#toClient.shift());
    }
    while (this.#toHost.length > 0) this.#hostHears(this.#toHost.shift());
  }

  /** The host's reply to a bare ACK that belongs to no connection. */
  flagsForStrayAck(): string[] {
    this.#port.transmit([tcp(new Uint8Array(), { sourcePort: 40_000, seq: 1, ack: 1 })]);
    return drain(this.#port).map((frame) => (decode(frame).body as DecodedTcp).flags);
  }

  #tick(pick: number, leastMs: number): void {
    this.#time += leastMs + pick;
    this.#toHost.push(...this.client.timeout());
  }

  #hostHears(frame: Uint8Array | undefined): void {
    if (frame === undefined) return;
    expect(this.#port.transmit([frame])).toBe(true);
    for (const reply of drain(this.#port)) {
      const { body } = decode(reply);
      if (body.kind !== 'tcp') throw new Error(`a ${body.kind} frame among the segments`);
      this.client.inspect(body);
      this.#toClient.push(body);
    }
  }

  #clientHears(segment: DecodedTcp | undefined): void {
    if (segment !== undefined) this.#toHost.push(...this.client.take(segment));
  }
}

function take<T>(queue: T[], pick: number): T | undefined {
  return queue.splice(pick % Math.max(1, queue.length), 1)[0];
}

test('whatever the wire loses, repeats or reorders, every byte comes back in order, once, and both sides close', () => {
  const between = (min: number, max: number) => fc.integer({ min, max });
  const client = fc.oneof(
    fc.record({ iss: sequence, bytes: fc.nat(300), window: between(1, 600), mss: between(48, 1460) }),
    fc.record({ iss: sequence, bytes: fc.nat(3000), window: between(100, 65_535), mss: between(48, 1460) }),
    fc.record({
      iss: sequence,
      bytes: fc.nat(80_000),
      window: between(4000, 65_535),
      mss: between(536, 1460),
    }),
  );
  fc.assert(
    fc.property(client, sequence, steps, ({ iss, bytes, window, mss }, hostIss, history) => {
      const data = Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8)) & 255);
      const exchange = new Exchange(new TcpClient({ iss, data, window, mss }), hostIss);
      for (const step of history) exchange.play(step);
      exchange.finish();
      expect(exchange.client.isReset).toBe(false);
      expect(exchange.client.isDone).toBe(true);
      expect(Buffer.from(exchange.client.received).equals(Buffer.from(data))).toBe(true);
      expect(exchange.flagsForStrayAck()).toEqual(['RST']);
    }),
    { numRuns: 200 },
  );
});

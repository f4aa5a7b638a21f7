import { constants, readSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Fd } from '../../sys/fd.js';
import * as libc from '../../sys/libc.js';
import { Scope } from '../../sys/scope.js';
import { unixSocketPair } from '../../sys/unix-socket.js';
import { StreamPort } from './stream-port.js';

const F_SETFL = 4;

/** A port, and the other end of its socket for the test. */
class Wire implements Disposable {
  readonly port: StreamPort;
  readonly peer: Fd;
  readonly #scope: Scope;
  words = 0;
  isPeerDisposed = false;

  constructor() {
    using scope = new Scope();
    const [socket, peer] = unixSocketPair('test');
    this.peer = scope.own(peer);
    for (const { number } of [socket, peer]) libc.fcntl(number, F_SETFL, constants.O_NONBLOCK);
    const lastWords = () => {
      this.words++;
      return 'it said goodbye';
    };
    const dispose = () => {
      this.isPeerDisposed = true;
    };
    this.port = scope.own(new StreamPort(socket, { name: 'peer', lastWords, [Symbol.dispose]: dispose }));
    this.#scope = scope.move();
  }

  /** Everything the peer has received since the last call. */
  heard(): Buffer {
    const pieces: Buffer[] = [];
    try {
      for (;;) {
        const piece = Buffer.alloc(65536);
        const count = readSync(this.peer.number, piece);
        if (count === 0) break;
        pieces.push(piece.subarray(0, count));
      }
    } catch {} // EAGAIN
    return Buffer.concat(pieces);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

const frameOf = (bytes: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + seed) & 0xff);

function framed(...frames: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    frames.map((frame) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(frame.length);
      return Buffer.concat([length, frame]);
    }),
  );
}

/** Splits a buffer, as a guest scatters a frame. */
function cut(bytes: Uint8Array, pieces: number): Uint8Array[] {
  const step = Math.ceil(bytes.length / pieces);
  return Array.from({ length: pieces }, (_, i) => bytes.subarray(i * step, (i + 1) * step));
}

const sizes = fc.array(fc.oneof(fc.integer({ min: 14, max: 1600 }), fc.constant(65553)), {
  minLength: 1,
  maxLength: 12,
});

test('frames come out whole and in order, however the stream is split', () => {
  fc.assert(
    fc.property(sizes, fc.array(fc.integer({ min: 1, max: 30_000 }), { minLength: 1 }), (lengths, steps) => {
      using wire = new Wire();
      const frames = lengths.map(frameOf);
      const stream = framed(...frames);
      const got: Uint8Array[] = [];
      const buffer = new Uint8Array(65553);
      const take = () => {
        for (let next = wire.port.pending(); next !== 0; next = wire.port.pending()) {
          expect(wire.port.receive(cut(buffer, 3))).toBe(next);
          got.push(buffer.slice(0, next));
        }
      };
      for (let at = 0, step = 0; at < stream.length; step++) {
        const piece = stream.subarray(at, at + (steps[step % steps.length] as number));
        at += writeSync(wire.peer.number, piece);
        if (step % 3 === 0) take();
      }
      take();
      expect(framed(...got).equals(stream)).toBe(true);
      expect(wire.port.counters.rxBytes).toBe(lengths.reduce((sum, bytes) => sum + bytes, 0));
    }),
    { numRuns: 60 },
  );
});

test('transmitted frames form a stream of whole frames, whether the peer reads at once or late', () => {
  fc.assert(
    fc.property(sizes, fc.array(fc.boolean(), { minLength: 1 }), (lengths, reads) => {
      using wire = new Wire();
      const sent: Uint8Array[] = [];
      const heard: Buffer[] = [];
      for (let i = 0; i < 60; i++) {
        const frame = frameOf(lengths[i % lengths.length] as number, i);
        if (wire.port.isFull) heard.push(wire.heard());
        expect(wire.port.isFull).toBe(false);
        expect(wire.port.transmit(cut(frame, 3))).toBe(true);
        sent.push(frame);
        if (reads[i % reads.length]) heard.push(wire.heard());
      }
      do heard.push(wire.heard());
      while (wire.port.isFull);
      heard.push(wire.heard());
      expect(Buffer.concat(heard).equals(framed(...sent))).toBe(true);
      expect(wire.port.counters).toMatchObject({ txFrames: 60, txDropped: 0 });
    }),
    { numRuns: 40 },
  );
});

test('a full port drops further frames, keeps the one it has begun, and allocates no more memory', () => {
  using wire = new Wire();
  const frame = frameOf(60_000, 1);
  let taken = 0;
  while (wire.port.transmit([frame])) taken++;
  expect(wire.port.isFull).toBe(true);
  for (let i = 0; i < 100; i++) expect(wire.port.transmit([frame])).toBe(false);
  expect(wire.port.counters).toMatchObject({ txFrames: taken, txDropped: 101 });
  let bytes = 0;
  for (let piece = wire.heard(); piece.length > 0; piece = wire.heard()) {
    bytes += piece.length;
    void wire.port.isFull;
  }
  expect(bytes).toBe(taken * 60_004);
  expect(wire.port.isFull).toBe(false);
});

test.each([
  ['shorter than an Ethernet header', [new Uint8Array(13)]],
  ['longer than a frame can be', [new Uint8Array(65_554)]],
  ['in more pieces than one call takes', Array.from({ length: 1100 }, () => new Uint8Array(1))],
])('a frame %s is dropped, and the stream stays intact', (_what, parts) => {
  using wire = new Wire();
  expect(wire.port.transmit(parts)).toBe(false);
  const frame = frameOf(60, 3);
  wire.port.transmit([frame]);
  expect(wire.heard().equals(framed(frame))).toBe(true);
});

test('a frame that does not fit the parts is dropped whole, and the next one can be received', () => {
  using wire = new Wire();
  writeSync(wire.peer.number, framed(frameOf(100, 1), frameOf(50, 2)));
  const buffer = new Uint8Array(60);
  expect(wire.port.receive([buffer])).toBe(-1);
  expect(wire.port.receive([buffer])).toBe(50);
  expect(buffer.subarray(0, 50)).toEqual(frameOf(50, 2));
  expect(wire.port.counters).toMatchObject({ rxFrames: 1, rxDropped: 1 });
});

test.each([0, 13, 65_554, 0xffff_ffff])('a peer that announces %i bytes fails the port', (length) => {
  using wire = new Wire();
  const good = frameOf(64, 1);
  const header = Buffer.alloc(4);
  header.writeUInt32BE(length);
  writeSync(wire.peer.number, Buffer.concat([framed(good), header, Buffer.alloc(100)]));
  const buffer = new Uint8Array(2000);
  expect(wire.port.receive([buffer])).toBe(64);
  for (let i = 0; i < 2; i++) {
    expect(wire.port.pending()).toBe(-1);
    expect(() => wire.port.receive([buffer])).toThrowError(
      new RegExp(`^net on peer: EPROTO\\n.*a frame of ${length} bytes`),
    );
  }
  expect(wire.port.transmit([good])).toBe(false);
});

test('a closed peer is reported with its last words, once for reader and writer, and the port drops all frames', () => {
  using wire = new Wire();
  writeSync(wire.peer.number, framed(frameOf(64, 1)));
  wire.peer[Symbol.dispose]();
  const buffer = new Uint8Array(2000);
  expect(wire.port.receive([buffer])).toBe(64);
  expect(() => wire.port.receive([buffer])).toThrowError(/^net on peer: ECONNRESET\n.*it said goodbye/);
  expect(wire.port.transmit([frameOf(64, 1)])).toBe(false);
  expect(wire.port.isFull).toBe(false);
  expect(wire.words).toBe(1);
});

test('a peer that closes in the middle of a frame also fails the writer', () => {
  using wire = new Wire();
  while (wire.port.transmit([frameOf(60_000, 1)]));
  wire.peer[Symbol.dispose]();
  expect(wire.port.isFull).toBe(false);
  expect(() => wire.port.receive([new Uint8Array(64)])).toThrowError(/ECONNRESET/);
});

test('a disposed port has no fd, yields nothing, and has disposed its peer', () => {
  using wire = new Wire();
  wire.port[Symbol.dispose]();
  expect([wire.port.fd, wire.port.receive([new Uint8Array(64)]), wire.isPeerDisposed]).toEqual([-1, 0, true]);
});

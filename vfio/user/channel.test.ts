import { fstatSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { MessageSocket } from '../../sys/socket-messages.js';
import { unixSocketPair } from '../../sys/unix-socket.js';
import { Channel } from './channel.js';
import { encodeCommand } from './message.js';
import { VFIO_USER_DMA_MAP, VFIO_USER_REGION_WRITE } from './protocol.js';

/** 1 MiB of data, and a page for what comes before it. */
const MOST_BYTES = 1024 * 1024 + 4096;

interface Pair extends Disposable {
  readonly channel: Channel;
  /** The other end, which sends bytes as it likes. */
  readonly peer: MessageSocket;
  closePeer(): void;
}

function pair(): Pair {
  const [near, far] = unixSocketPair('test');
  const channel = new Channel(near);
  const peer = new MessageSocket(far, 4096);
  channel.setTimeouts(20, 200);
  return {
    channel,
    peer,
    closePeer: () => peer[Symbol.dispose](),
    [Symbol.dispose]() {
      channel[Symbol.dispose]();
      peer[Symbol.dispose]();
    },
  };
}

/** What a descriptor is, whatever its number. */
const identity = (fd: number): string => `${fstatSync(fd).dev}:${fstatSync(fd).ino}`;

const payload = (bytes: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + seed) & 0xff);

test('messages come out as they went in, however the bytes were cut', () => {
  const sizes = fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(sizes, fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }), (lengths, cuts) => {
      using made = pair();
      const sent = lengths.map((length, id) =>
        encodeCommand(id, VFIO_USER_REGION_WRITE, payload(length, id)),
      );
      const stream = Buffer.concat(sent);
      const received: number[][] = [];
      for (let at = 0, i = 0; at < stream.length; i++) {
        const next = Math.min(stream.length, at + (cuts[i % cuts.length] as number));
        made.peer.send(stream.subarray(at, next));
        at = next;
        for (let got = made.channel.receive(false); got !== undefined; got = made.channel.receive(false))
          received.push([got.id, ...got.payload]);
      }
      expect(received).toEqual(lengths.map((length, id) => [id, ...payload(length, id)]));
    }),
  );
});

test('a descriptor stays with its message when the kernel glues messages without one in front of it', () => {
  using made = pair();
  using file = Fd.memfd('mine');
  for (const id of [1, 2]) made.peer.send(encodeCommand(id, VFIO_USER_DMA_MAP, payload(32, id)));
  made.peer.send(encodeCommand(3, VFIO_USER_DMA_MAP, payload(32, 3)), [file.number]);
  made.peer.send(encodeCommand(4, VFIO_USER_DMA_MAP, payload(32, 4)));
  made.peer.send(encodeCommand(5, VFIO_USER_DMA_MAP, payload(32, 5)), [file.number, file.number]);
  const fds: [number, string[]][] = [];
  for (let got = made.channel.receive(false); got !== undefined; got = made.channel.receive(false))
    fds.push([got.id, got.fds.map(({ number }) => identity(number))]);
  const mine = identity(file.number);
  expect(fds).toEqual([
    [1, []],
    [2, []],
    [3, [mine]],
    [4, []],
    [5, [mine, mine]],
  ]);
});

test('a descriptor that comes with the body belongs to the message under way', () => {
  using made = pair();
  using file = Fd.memfd('mine');
  const message = encodeCommand(1, VFIO_USER_DMA_MAP, payload(32, 1));
  made.peer.send(message.subarray(0, 10));
  expect(made.channel.receive(false)).toBeUndefined();
  made.peer.send(message.subarray(10), [file.number]);
  expect(made.channel.receive(false)?.fds.map(({ number }) => identity(number))).toEqual([
    identity(file.number),
  ]);
});

test('descriptors that nobody took are closed', () => {
  using made = pair();
  using file = Fd.memfd('mine');
  made.peer.send(encodeCommand(1, VFIO_USER_DMA_MAP), [file.number]);
  made.peer.send(encodeCommand(2, VFIO_USER_DMA_MAP), [file.number]);
  const [left] = made.channel.receive()?.fds ?? [];
  const taken = made.channel.receive()?.fds.pop();
  expect(left?.isOpen).toBe(false);
  expect(made.channel.receive(false)).toBeUndefined();
  expect(taken?.isOpen).toBe(true);
  taken?.[Symbol.dispose]();
});

test('a largest message comes whole, and one behind it', () => {
  using made = pair();
  const large = encodeCommand(1, VFIO_USER_REGION_WRITE, payload(MOST_BYTES - 16, 1));
  const small = encodeCommand(2, VFIO_USER_REGION_WRITE, payload(4, 2));
  const stream = Buffer.concat([small, large, small]);
  const got: number[] = [];
  for (let at = 0; at < stream.length; at += 60_000) {
    made.peer.send(stream.subarray(at, at + 60_000));
    for (let m = made.channel.receive(false); m !== undefined; m = made.channel.receive(false))
      got.push(m.size);
  }
  expect(got).toEqual([small.length, large.length, small.length]);
});

test.each([0, 15, MOST_BYTES + 1, 0xffff_ffff])(
  'a message that says it has %d bytes ends the connection',
  (size) => {
    using made = pair();
    using file = Fd.memfd('mine');
    const message = encodeCommand(1, VFIO_USER_REGION_WRITE);
    new DataView(message.buffer).setUint32(4, size, true);
    made.peer.send(message, [file.number]);
    expect(() => made.channel.receive()).toThrowError(/EPROTO\n.*announces a message of/);
  },
);

test('a message that comes byte by byte gets no longer than the deadline, and is whole afterwards', async () => {
  using made = pair();
  const message = encodeCommand(9, VFIO_USER_REGION_WRITE, payload(40, 9));
  made.peer.send(message.subarray(0, 30));
  expect(made.channel.receive(true, performance.now() - 1)).toBeUndefined();
  made.peer.send(message.subarray(30));
  expect(made.channel.receive(true, performance.now() - 1)?.id).toBe(9);
});

test('more descriptors than a message may have end the connection, and stay nowhere', () => {
  using made = pair();
  using file = Fd.memfd('mine');
  const message = encodeCommand(1, VFIO_USER_DMA_MAP, payload(100, 1));
  for (let i = 0; i < 4; i++) made.peer.send(message.subarray(i, i + 1), new Array(5).fill(file.number));
  expect(() => {
    for (let i = 0; i < 4; i++) made.channel.receive(false);
  }).toThrowError(/EPROTO\n.*more than 16 descriptors/);
});

test('a peer that is gone is told from one that says nothing', () => {
  using made = pair();
  expect(made.channel.receive()).toBeUndefined();
  made.peer.send(encodeCommand(7, VFIO_USER_REGION_WRITE));
  made.closePeer();
  expect(made.channel.receive()?.id).toBe(7);
  expect(() => made.channel.receive()).toThrowError(/ECONNRESET\n.*the peer has disconnected/);
  expect(() => made.channel.send(encodeCommand(1, VFIO_USER_REGION_WRITE))).toThrowError(/ECONNRESET/);
});

test('a peer that does not read is given up in time', () => {
  using made = pair();
  const message = encodeCommand(1, VFIO_USER_REGION_WRITE, new Uint8Array(1 << 20));
  expect(() => {
    for (let i = 0; i < 64; i++) made.channel.send(message);
  }).toThrowError(/ETIMEDOUT\n.*does not read/);
});

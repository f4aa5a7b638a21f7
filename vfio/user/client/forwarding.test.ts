/** A served device that another server has: between the two, nothing is lost. */
import { readFileSync, readSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { Channel } from '../channel.js';
import { decodeIoFds, decodeRegionInfo, encodeCommand, encodeReply, Writer } from '../message.js';
import * as protocol from '../protocol.js';
import { openForClient } from '../server/server.js';
import { Session } from '../server/session.js';
import { DMA_BYTES, DOORBELL, KICK, MEMORY, MSIX, REGISTERS } from '../testing/card.js';
import { noEvents, type Peer, startPeer } from '../testing/peer.js';
import { QEMU_CAPABILITIES } from '../testing/raw-client.js';
import { encodeVersion } from '../version.js';
import { userProvider } from './provider.js';

let peer: Peer;
beforeAll(async () => {
  peer = await startPeer();
});
afterAll(async () => {
  await peer[Symbol.asyncDispose]();
});

/** A client of a server, in this thread, that forwards to the peer. */
class Client implements Disposable {
  readonly channel: Channel;
  readonly session: Session;
  readonly #scope = new Scope();
  #lastId = 0;

  constructor() {
    const provider = userProvider(noEvents);
    const found = this.#scope.own(provider.resolve(`vfio-user:${peer.path}`, { twin: 'off' }));
    const [near, far] = unixSocketPair('forwarding');
    this.channel = this.#scope.own(new Channel(near));
    const served = openForClient(provider, found);
    const options = { trustsClient: false, waitMs: 5, replyMs: 5000 };
    this.session = this.#scope.own(new Session(new Channel(far), served, options));
    const version = encodeVersion({ major: 0, minor: 2, capabilities: QEMU_CAPABILITIES }, false);
    this.ask(protocol.VFIO_USER_VERSION, version);
  }

  ask(command: number, payload?: Uint8Array, fds: readonly number[] = []) {
    this.channel.send(encodeCommand(++this.#lastId, command, payload), fds);
    while (this.session.step(false));
    const {
      errno,
      payload: answer,
      fds: got,
    } = this.channel.receive() as NonNullable<ReturnType<Channel['receive']>>;
    return { errno, payload: answer.slice(), fds: got.splice(0).map((fd) => this.#scope.own(fd)) };
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

const words = (...values: readonly number[]) => new Uint8Array(Uint32Array.from(values).buffer);
const dmaMap = (at: bigint, size: bigint) => new Writer(32).u32(32).u32(3).u64(0).u64(at).u64(size).bytes;
const kick = (at: bigint) => new Writer(24).u64(KICK).u32(REGISTERS).u32(8).u64(at).bytes;

test('areas and descriptors of a region come through, though this process must not map what could be cut short', () => {
  using client = new Client();
  const answer = client.ask(protocol.VFIO_USER_DEVICE_GET_REGION_INFO, words(80, 0, MEMORY, 0, 0, 0, 0, 0));
  const { flags, capabilities, fdOffset } = decodeRegionInfo(1, answer.payload);
  expect(flags & 4).toBe(4);
  expect(fdOffset).toBe(0);
  expect(capabilities).toEqual([
    {
      id: 1,
      areas: [
        { offset: 0, size: 4096 },
        { offset: 8192, size: 4096 },
      ],
    },
  ]);
  expect(answer.fds.length).toBe(1);
});

test('doorbells, shared memory and interrupts come through', () => {
  using client = new Client();
  const ioFds = client.ask(protocol.VFIO_USER_DEVICE_GET_REGION_IO_FDS, words(64, 0, REGISTERS, 0));
  expect(decodeIoFds(1, ioFds.payload).ioFds).toMatchObject([{ offset: DOORBELL, size: 4 }]);
  expect(ioFds.fds.length).toBe(1);
  using memory = createSharedMemory('forwarded', 4096);
  using bell = Fd.eventfd();
  expect(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0n, 4096n), [memory.fd.number]).errno).toBe(0);
  expect(
    client.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, words(20, 0x24, MSIX, 0, 1), [bell.number]).errno,
  ).toBe(0);
  expect(client.ask(protocol.VFIO_USER_REGION_WRITE, kick(8n)).errno).toBe(0);
  const failed = new Writer(16)
    .u64(KICK + 8)
    .u32(REGISTERS)
    .u32(1).bytes;
  expect(client.ask(protocol.VFIO_USER_REGION_READ, failed).payload[16]).toBe(0);
  // Here, in the server that forwards, and in the peer: all are in this process.
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  expect(maps.filter((line) => line.includes('memfd:forwarded')).length).toBe(3);
  expect([...memory.mapping.view.slice(7, DMA_BYTES + 2)]).toEqual([0, ...new Array(DMA_BYTES).fill(1), 0]);
  expect(readSync(bell.number, new Uint8Array(8))).toBe(8);
  // The peer is a thread of this process: its duplicate counts as ours.
  client.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, words(20, 0x24, MSIX, 0, 1));
  expect(
    client.ask(protocol.VFIO_USER_DMA_UNMAP, new Writer(24).u32(24).u32(0).u64(0).u64(4096).bytes).errno,
  ).toBe(0);
});

test('memory that the client does not share is asked for, from server to client', () => {
  using client = new Client();
  const { VFIO_USER_DMA_READ: READ, VFIO_USER_DMA_WRITE: WRITE } = protocol;
  expect(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0x10_0000n, 4096n)).errno).toBe(0);
  const failed = new Writer(16)
    .u64(KICK + 8)
    .u32(REGISTERS)
    .u32(1).bytes;
  client.channel.send(encodeCommand(100, protocol.VFIO_USER_REGION_WRITE, kick(0x10_0000n)));
  client.channel.send(encodeCommand(101, protocol.VFIO_USER_REGION_READ, failed));
  // Its answers to what it will be asked.
  const access = () => new Writer(16 + DMA_BYTES).u64(0x10_0000).u64(DMA_BYTES);
  client.channel.send(encodeReply(1, READ, access().data(new Uint8Array(DMA_BYTES).fill(7)).bytes));
  client.channel.send(encodeReply(2, WRITE, access().bytes.subarray(0, 16)));
  while (client.session.step(false));
  const heard = Array.from({ length: 4 }, () => {
    const message = client.channel.receive(false);
    return [message?.command, message?.payload.at(-1)];
  });
  expect(heard).toEqual([
    [READ, 0],
    [WRITE, 8],
    [protocol.VFIO_USER_REGION_WRITE, 0],
    [protocol.VFIO_USER_REGION_READ, 0],
  ]);
});

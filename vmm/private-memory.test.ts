/** `tsvisor serve virtio-net`, and `virtio-blk`, for a client that shares no memory, or not all of it. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { ftruncateSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, expect, test, vi } from 'vitest';
import { arp, decode, dhcp, icmpEcho } from '../devices/net/testing/frames.js';
import { diskFile, pattern } from '../devices/virtio-blk/testing/workbench.js';
import {
  GuestDriver,
  type GuestMap,
  GuestMemory,
  GuestQueue,
  maps,
  STATUS,
} from '../devices/virtio-net/testing/guest.js';
import { iova } from '../sys/address.js';
import { drainEventfd, isReadable } from '../sys/eventfd.js';
import { Fd } from '../sys/fd.js';
import { Scope } from '../sys/scope.js';
import { connectUnix } from '../sys/unix-socket.js';
import { Channel, type Message } from '../vfio/user/channel.js';
import { encodeCommand, encodeError, encodeReply, Reader, Writer } from '../vfio/user/message.js';
import * as protocol from '../vfio/user/protocol.js';
import { decodeVersion, encodeVersion } from '../vfio/user/version.js';
import { killAll, type Serving, serve } from './testing/serving.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-private-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const running: ChildProcess[] = [];
afterEach(() => killAll(running));
let last = 0;

const serveDevice = (device: string): Promise<Serving> =>
  serve(device, { path: join(folder, `${last++}.sock`) }, running);
const serveNic = (): Promise<Serving> => serveDevice('virtio-net');

/** How the client lends a map. */
type Lending = 'private' | 'sealed memfd' | 'unsealed memfd';

/** Answers one request for memory; undefined sends none. */
type Answer = (command: number, message: Message, memory: GuestMemory) => Uint8Array | undefined;

const honest: Answer = (command, { id, payload }, memory) => {
  const reader = new Reader(command, payload);
  const [at, count] = [reader.u64(), reader.size()];
  const data = new Uint8Array(count);
  const isWrite = command === protocol.VFIO_USER_DMA_WRITE;
  if (isWrite) data.set(reader.bytes(count));
  memory.rw(iova(at), data, isWrite);
  const reply = new Writer(16 + (isWrite ? 0 : count)).u64(at).u64(count);
  return encodeReply(id, command, isWrite ? reply.bytes : reply.data(data).bytes);
};

/** A client written for tests; it answers requests for memory while it waits, as a guest's virtual machine does. */
class Client implements Disposable {
  readonly #scope = new Scope();
  readonly memory = this.#scope.own(new GuestMemory());
  readonly vectors: readonly Fd[];
  readonly #channel: Channel;
  readonly #requests: Channel;
  readonly #unsealed = this.#scope.own(Fd.memfd('unsealed'));
  answer: Answer = honest;
  requests = 0;
  #lastId = 0;

  constructor(path: string, hasTwin: boolean, vectorCount = 3) {
    this.vectors = Array.from({ length: vectorCount }, (_, i) => this.#scope.own(Fd.eventfd(`vector ${i}`)));
    this.#channel = this.#scope.own(new Channel(connectUnix(path, true)));
    this.#channel.setTimeouts(1, 5000);
    this.#requests = this.#channel;
    const twinSocket = hasTwin ? { fdIndex: undefined } : undefined;
    const capabilities = {
      maxMsgFds: 8,
      maxDataXferSize: 1 << 20,
      maxDmaMaps: 65_535,
      pgsizes: 4096,
      hasWriteMultiple: false,
      twinSocket,
    };
    const version = encodeVersion({ major: protocol.MAJOR, minor: protocol.MINOR, capabilities }, false);
    const reply = this.ask(protocol.VFIO_USER_VERSION, version);
    expect(decodeVersion(reply.payload).capabilities.twinSocket !== undefined).toBe(hasTwin);
    const [twin] = reply.fds;
    if (twin !== undefined) {
      this.#requests = this.#scope.own(new Channel(twin));
      this.#requests.setTimeouts(1, 5000);
    }
    const fds = this.vectors.map(({ number }) => number);
    const irqs = new Writer(20).u32(20).u32(0x24).u32(2).u32(0).u32(vectorCount).bytes;
    this.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, irqs, fds);
  }

  map({ iova: at, bytes, at: offset, isWritable }: GuestMap, lending: Lending): void {
    if (lending === 'unsealed memfd') ftruncateSync(this.#unsealed.number, offset + bytes);
    const fd = { private: undefined, 'sealed memfd': this.memory.file, 'unsealed memfd': this.#unsealed }[
      lending
    ];
    const payload = new Writer(32)
      .u32(32)
      .u32(isWritable ? 3 : 1)
      .u64(fd === undefined ? 0 : offset);
    this.ask(
      protocol.VFIO_USER_DMA_MAP,
      payload.u64(at).u64(bytes).bytes,
      fd === undefined ? [] : [fd.number],
    );
  }

  unmap({ iova: at, bytes }: GuestMap): void {
    this.ask(protocol.VFIO_USER_DMA_UNMAP, new Writer(24).u32(24).u32(0).u64(at).u64(bytes).bytes);
  }

  /** The device's registers, for a driver. */
  get ops(): ConstructorParameters<typeof GuestDriver>[0] {
    const head = (region: number, offset: number, count: number, data: Uint8Array = new Uint8Array(0)) =>
      new Writer(16 + data.length).u64(offset).u32(region).u32(count).data(data).bytes;
    return {
      read: (region: number, offset: number, data: Uint8Array) => {
        const { payload } = this.ask(protocol.VFIO_USER_REGION_READ, head(region, offset, data.length));
        data.set(payload.subarray(16));
        return data.length;
      },
      write: (region: number, offset: number, data: Uint8Array) => {
        this.ask(protocol.VFIO_USER_REGION_WRITE, head(region, offset, data.length, data));
        return data.length;
      },
    } as never;
  }

  ask(command: number, payload: Uint8Array, fds: readonly number[] = []): Message {
    const id = ++this.#lastId & 0xffff;
    this.#channel.send(encodeCommand(id, command, payload), fds);
    const until = performance.now() + 20_000;
    while (performance.now() < until) {
      const reply = this.#hear(this.#channel);
      if (this.#requests !== this.#channel) this.#hear(this.#requests);
      if (reply === undefined) continue;
      expect([reply.id, reply.command, reply.errno]).toEqual([id, command, 0]);
      return { ...reply, payload: reply.payload.slice(), fds: reply.fds.splice(0) };
    }
    throw new Error(`no answer to ${protocol.commandName(command)}`);
  }

  /** Answers requests until `done`. */
  until(done: () => boolean): void {
    const end = performance.now() + 20_000;
    while (!done()) {
      if (performance.now() > end) throw new Error('it never came');
      this.#hear(this.#requests);
    }
  }

  /** Takes one message: the reply to a command, or undefined. */
  #hear(channel: Channel): Message | undefined {
    const message = channel.receive(true);
    if (message === undefined || (message.flags & protocol.TYPE_MASK) === protocol.TYPE_REPLY) return message;
    this.requests++;
    const reply = this.answer(message.command, message, this.memory);
    if (reply !== undefined) channel.send(reply);
    return undefined;
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const ways: readonly (readonly [Lending, Lending, boolean])[] = [
  ['private', 'private', false],
  ['private', 'private', true],
  ['unsealed memfd', 'unsealed memfd', true],
  ['sealed memfd', 'private', true],
  ['private', 'sealed memfd', false],
];
/** The rings, and the buffers: two maps of one range. */
const rings: GuestMap = { ...maps.main, bytes: 0x8000 };
const buffers: GuestMap = {
  ...maps.main,
  iova: rings.iova + rings.bytes,
  at: rings.at + rings.bytes,
  bytes: maps.main.bytes - rings.bytes,
};

/** Sends a frame, and returns what the device replies to it. */
function exchange(client: Client, driver: GuestDriver, frame: Uint8Array): ReturnType<typeof decode>['body'] {
  const at = RX_BUFFERS + 2048 * (driver.rx.availIndex % 64);
  driver.rx.usedEvent = driver.rx.usedIndex;
  driver.provide(at);
  driver.ring(0);
  driver.send(frame, TX_BUFFERS + 2048 * (driver.tx.availIndex % 64));
  driver.ring(1);
  const [, rx] = client.vectors;
  client.until(() => isReadable((rx as Fd).number));
  drainEventfd((rx as Fd).number);
  const [used, ...more] = driver.rx.reap();
  expect(more).toEqual([]);
  return decode(driver.frame(at, used as NonNullable<typeof used>)).body;
}

test.each(ways)(
  'DHCP, ARP and ping are answered with rings in %s, buffers in %s, a twin socket: %s',
  async (ringWay, bufferWay, hasTwin) => {
    const { path, output, child } = await serveNic();
    {
      using client = new Client(path, hasTwin);
      client.map(rings, ringWay);
      client.map(buffers, bufferWay);
      const driver = new GuestDriver(client.ops, client.memory);
      driver.start();
      expect(exchange(client, driver, dhcp(1))).toMatchObject({ kind: 'udp', dhcp: { yiaddr: '10.0.2.15' } });
      expect(exchange(client, driver, arp())).toMatchObject({ kind: 'arp' });
      for (let i = 0; i < 100; i++) {
        const data = Uint8Array.from({ length: 1400 }, (_, j) => (i + j) & 0xff);
        expect(exchange(client, driver, icmpEcho(data, { sequence: i }))).toMatchObject({
          kind: 'icmp',
          type: 0,
        });
      }
      expect(driver.tx.reap()).toHaveLength(102);
      expect(client.requests).toBeGreaterThan(102);
      expect(driver.status & STATUS.needsReset).toBe(0);
    }
    await vi.waitUntil(() => output().includes('the client has disconnected'));
    expect(output().match(/served by message/g)).toHaveLength(1);
    child.kill('SIGTERM');
    expect(await once(child, 'exit')).toEqual([143, null]);
  },
);

test('a client that refuses, or answers short, has a device that needs a reset, and the server says why', async () => {
  const { path, output } = await serveNic();
  using client = new Client(path, true);
  client.map(maps.main, 'private');
  const driver = new GuestDriver(client.ops, client.memory);
  const answers: readonly (readonly [Answer, RegExp])[] = [
    [
      (command, { id }) => encodeError(id, command, 13),
      /queue 1 has stopped until a reset: .*DMA_(READ|WRITE).*EACCES/,
    ],
    [
      (command, { id }) => encodeReply(id, command, new Uint8Array(3)),
      /queue 1 has stopped until a reset: .*EINVAL/,
    ],
    [
      (command, message, memory) =>
        command === protocol.VFIO_USER_DMA_WRITE
          ? encodeError(message.id, command, 14)
          : honest(command, message, memory),
      /queue 1 has stopped until a reset: .*DMA_WRITE.*EFAULT/,
    ],
  ];
  for (const [answer, text] of answers) {
    client.answer = honest;
    driver.start();
    driver.send(arp(), TX_BUFFERS);
    client.answer = answer;
    driver.ring(1);
    client.until(() => (driver.status & STATUS.needsReset) !== 0);
    await vi.waitFor(() => expect(output()).toMatch(text), { timeout: 5000 });
  }
  client.answer = honest;
  driver.start();
  expect(exchange(client, driver, arp())).toMatchObject({ kind: 'arp' });
});

test('a client that unmaps its memory while it is used can map it again, and reset the device', async () => {
  const { path, output } = await serveNic();
  using client = new Client(path, true);
  client.map(maps.main, 'private');
  const driver = new GuestDriver(client.ops, client.memory);
  driver.start();
  expect(exchange(client, driver, arp())).toMatchObject({ kind: 'arp' });
  driver.send(arp(), TX_BUFFERS);
  client.unmap(maps.main);
  driver.ring(1);
  client.until(() => (driver.status & STATUS.needsReset) !== 0);
  await vi.waitUntil(() => /queue 1 has stopped until a reset: .*EFAULT/.test(output()), { timeout: 5000 });
  client.map(maps.main, 'private');
  driver.start();
  expect(exchange(client, driver, arp())).toMatchObject({ kind: 'arp' });
});

test('a client that never answers is disconnected with a sentence, and the next one is served', async () => {
  const { path, output } = await serveNic();
  {
    using client = new Client(path, false);
    client.map(maps.main, 'private');
    const driver = new GuestDriver(client.ops, client.memory);
    client.answer = () => undefined;
    driver.start();
    await vi.waitUntil(() => output().includes('was disconnected'), { timeout: 20_000 });
  }
  expect(output()).toMatch(/the client was disconnected: VFIO_USER_DMA_READ .*ETIMEDOUT/);
  expect(output()).toMatch(/queue \d has stopped until a reset: VFIO_USER_DMA_READ .*ETIMEDOUT/);
  using client = new Client(path, false);
  client.map(maps.main, 'private');
  const driver = new GuestDriver(client.ops, client.memory);
  driver.start();
  expect(exchange(client, driver, arp())).toMatchObject({ kind: 'arp' });
}, 40_000);

test.each(ways)(
  'a disk is read and written with rings in %s, data in %s, a twin socket: %s',
  async (ringWay, dataWay, hasTwin) => {
    const file = diskFile(folder, pattern(1 << 20), `${last}.raw`);
    const { path, output } = await serveDevice(`virtio-blk,file=${file}`);
    using client = new Client(path, hasTwin, 2);
    client.map(rings, ringWay);
    client.map(buffers, dataWay);
    const { memory } = client;
    const driver = new GuestDriver(client.ops, memory);
    driver.negotiate();
    const queue = new GuestQueue(memory, 64, rings.iova);
    driver.setUpQueue(0, queue, 1);
    driver.status |= STATUS.driverOk;
    const [header, status] = [rings.iova + 0x7000, rings.iova + 0x7100];
    const request = (type: number, sector: number, bytes: number): Uint8Array => {
      memory.words.setUint32(memory.at(header), type, true);
      memory.words.setBigUint64(memory.at(header) + 8, BigInt(sector), true);
      memory.bytes[memory.at(status)] = 0xaa;
      queue.usedEvent = queue.usedIndex;
      const data = { address: TX_BUFFERS, length: bytes, isDeviceWritable: type === 0 };
      queue.add([
        { address: header, length: 16 },
        data,
        { address: status, length: 1, isDeviceWritable: true },
      ]);
      driver.ring(0);
      const [, vector] = client.vectors;
      client.until(() => isReadable((vector as Fd).number));
      drainEventfd((vector as Fd).number);
      expect([memory.bytes[memory.at(status)], queue.reap().length]).toEqual([0, 1]);
      return memory.bytes.subarray(memory.at(TX_BUFFERS), memory.at(TX_BUFFERS) + bytes);
    };
    expect(Buffer.compare(request(0, 8, 65_536), pattern(1 << 20).subarray(4096, 4096 + 65_536))).toBe(0);
    for (let i = 0; i < 10; i++) {
      memory.bytes.set(pattern(4096, i), memory.at(TX_BUFFERS));
      request(1, 8 * i, 4096);
    }
    const written = readFileSync(file);
    for (let i = 0; i < 10; i++)
      expect(Buffer.compare(written.subarray(4096 * i, 4096 * (i + 1)), pattern(4096, i))).toBe(0);
    await vi.waitUntil(() => output().includes('served by message'));
  },
  60_000,
);

test('a client that refuses its memory to a disk gets one that needs a reset, and works after it', async () => {
  const file = diskFile(folder, pattern(4096), `${last}.raw`);
  const { path, output } = await serveDevice(`virtio-blk,file=${file}`);
  using client = new Client(path, true, 2);
  client.map(maps.main, 'private');
  const { memory } = client;
  const driver = new GuestDriver(client.ops, memory);
  const begin = () => {
    driver.negotiate();
    const queue = new GuestQueue(memory, 64, maps.main.iova);
    driver.setUpQueue(0, queue, 1);
    driver.status |= STATUS.driverOk;
    const head = { address: maps.main.iova + 0x7000, length: 16 };
    memory.bytes.fill(0, memory.at(head.address), memory.at(head.address) + 16);
    queue.add([head, { address: TX_BUFFERS, length: 513, isDeviceWritable: true }]);
    return queue;
  };
  begin();
  client.answer = (command, { id }) => encodeError(id, command, 13);
  driver.ring(0);
  client.until(() => (driver.status & STATUS.needsReset) !== 0);
  await vi.waitFor(() => expect(output()).toMatch(/its queue has stopped until a reset: .*EACCES/), {
    timeout: 5000,
  });
  client.answer = honest;
  const queue = begin();
  driver.ring(0);
  client.until(() => queue.usedIndex === 1);
  expect(
    Buffer.compare(memory.bytes.slice(memory.at(TX_BUFFERS), memory.at(TX_BUFFERS) + 512), pattern(512)),
  ).toBe(0);
});

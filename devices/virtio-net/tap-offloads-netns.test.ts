/** Offloads with the real tun driver and TCP of the kernel, in a network namespace: this file runs itself again in one. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { inetChecksum } from '../net/testing/frames.js';
import { isInNamespace, runInNamespace } from '../net/testing/namespace.js';
import { FEATURE, maps } from './testing/guest.js';
import { Workbench } from './testing/workbench.js';

const RX_BUFFERS = 0x20_0000;
const RX_BUFFER_BYTES = 2048;
const TX_BUFFERS = maps.next.iova + 0x8_0000;
const HOST = '10.9.0.1';
const GUEST = '10.9.0.2';
const GUEST_MAC = '52:54:00:12:34:56';
const GUEST_PORT = 4000;

const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
const GSO_TCPV4 = 1;
const MSS = 1460;
const TCP_AT = 34;
const DATA_AT = 54;
const SYN = 2;
const PUSH = 8;
const ACK = 16;

const octets = (text: string, separator: string, radix: number): number[] =>
  text.split(separator).map((part) => Number.parseInt(part, radix));

/** What the guest received: the header of virtio-net, and the frame. */
interface Received {
  readonly flags: number;
  readonly gsoType: number;
  readonly gsoBytes: number;
  readonly buffers: number;
  readonly frame: Uint8Array;
}

/** A guest with TCP by hand over a tap, as far as one connection needs it. */
class TcpGuest implements Disposable {
  readonly bench: Workbench;
  readonly #port: number;
  readonly #hostMac: number[];
  #sequence = 1000;
  #acknowledged = 0;

  constructor(name: string, port: number, features: bigint) {
    this.bench = new Workbench({ net: `tap:${name}`, mac: GUEST_MAC });
    this.#port = port;
    const ip = (...words: string[]) => execFileSync('ip', words, { encoding: 'utf8', stdio: 'pipe' });
    ip('address', 'add', `${HOST}/24`, 'dev', name);
    ip('link', 'set', name, 'up');
    ip('neighbour', 'replace', GUEST, 'lladdr', GUEST_MAC, 'dev', name);
    const [, mac = ''] = /link\/ether (\S+)/.exec(ip('link', 'show', 'dev', name)) ?? [];
    this.#hostMac = octets(mac, ':', 16);
    const { driver } = this.bench;
    driver.start({ features: driver.offered & features });
    for (let i = 0; i < 256; i++) this.#provide(i);
    driver.ring(0);
  }

  #provide(id: number): void {
    this.bench.driver.rx.add([
      { address: RX_BUFFERS + RX_BUFFER_BYTES * id, length: RX_BUFFER_BYTES, isDeviceWritable: true },
    ]);
  }

  /** Sends a TCP segment, of which the device makes several if it is long. */
  send(flags: number, data: Uint8Array, hasOffloads = false): void {
    const frame = new Uint8Array(DATA_AT + data.length);
    const view = new DataView(frame.buffer);
    frame.set([...this.#hostMac, ...octets(GUEST_MAC, ':', 16), 0x08, 0x00]);
    frame.set([0x45, 0], 14);
    view.setUint16(16, 40 + data.length);
    frame.set([0, 0, 0x40, 0, 64, 6], 18);
    frame.set([...octets(GUEST, '.', 10), ...octets(HOST, '.', 10)], 26);
    view.setUint16(24, inetChecksum(frame.subarray(14, 34)));
    view.setUint16(TCP_AT, GUEST_PORT);
    view.setUint16(TCP_AT + 2, this.#port);
    view.setUint32(TCP_AT + 4, this.#sequence);
    view.setUint32(TCP_AT + 8, this.#acknowledged);
    frame.set([0x50, flags, 0xff, 0xff], TCP_AT + 12);
    frame.set(data, DATA_AT);
    const length = 20 + data.length;
    const pseudo = Uint8Array.of(...frame.subarray(26, 34), 0, 6, length >>> 8, length & 0xff);
    const header = new Uint8Array(12);
    if (hasOffloads) {
      const words = new DataView(header.buffer);
      header.set([VIRTIO_NET_HDR_F_NEEDS_CSUM, GSO_TCPV4]);
      words.setUint16(2, DATA_AT, true);
      words.setUint16(4, MSS, true);
      words.setUint16(6, TCP_AT, true);
      words.setUint16(8, 16, true);
      // The sum of the pseudo header; the rest is left to the device.
      view.setUint16(TCP_AT + 16, ~inetChecksum(pseudo) & 0xffff);
    } else {
      view.setUint16(TCP_AT + 16, inetChecksum(Uint8Array.of(...pseudo, ...frame.subarray(TCP_AT))));
    }
    this.#sequence += data.length + ((flags & SYN) === 0 ? 0 : 1);
    this.bench.driver.send(frame, TX_BUFFERS, header);
    this.bench.driver.ring(1);
    this.bench.thread.pump();
  }

  /** What has arrived next of this connection, which it acknowledges; not what the host sends again. */
  receive(): Received[] {
    const { driver, memory, thread } = this.bench;
    thread.pump();
    const used = driver.rx.reap();
    const list: Received[] = [];
    for (let next = 0; next < used.length; ) {
      const at = memory.at(RX_BUFFERS + RX_BUFFER_BYTES * (used[next]?.id ?? 0));
      const { words } = memory;
      const buffers = words.getUint16(at + 10, true);
      const frame = used.slice(next, next + buffers).flatMap(({ id, length }) => {
        const from = memory.at(RX_BUFFERS + RX_BUFFER_BYTES * id);
        return [...memory.bytes.subarray(from, from + length)];
      });
      next += buffers;
      const isOurs = frame[12 + 12] === 8 && frame[12 + 13] === 0 && frame[12 + 23] === 6;
      if (!isOurs || !this.#take(Uint8Array.from(frame.slice(12)))) continue;
      list.push({
        flags: words.getUint8(at),
        gsoType: words.getUint8(at + 1),
        gsoBytes: words.getUint16(at + 4, true),
        buffers,
        frame: Uint8Array.from(frame.slice(12)),
      });
    }
    for (const { id } of used) this.#provide(id);
    if (used.length > 0) driver.ring(0);
    if (list.some(({ frame }) => frame.length > DATA_AT)) this.send(ACK, new Uint8Array());
    return list;
  }

  /** Whether a frame is the next one of the connection. */
  #take(frame: Uint8Array): boolean {
    const view = new DataView(frame.buffer);
    const sequence = view.getUint32(TCP_AT + 4);
    const isFirst = ((frame[TCP_AT + 13] ?? 0) & SYN) !== 0;
    if (!isFirst && sequence !== this.#acknowledged) return false;
    const bytes = view.getUint16(16) - 20 - ((frame[TCP_AT + 12] ?? 0) >> 4) * 4;
    this.#acknowledged = (sequence + bytes + (isFirst ? 1 : 0)) >>> 0;
    return true;
  }

  async connect(): Promise<void> {
    this.send(SYN, new Uint8Array());
    await until(() => this.receive().some(({ frame }) => ((frame[TCP_AT + 13] ?? 0) & SYN) !== 0));
    this.send(ACK, new Uint8Array());
  }

  [Symbol.dispose](): void {
    this.bench[Symbol.dispose]();
  }
}

async function until(isTrue: () => boolean): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (isTrue()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error('it did not happen');
}

/** Packets and bytes that the interface has received, from the guest. */
function received(name: string): { packets: number; bytes: number } {
  const line = readFileSync('/proc/thread-self/net/dev', 'utf8')
    .split('\n')
    .find((each) => each.trim().startsWith(`${name}:`));
  const [bytes = Number.NaN, packets = Number.NaN] = (line?.split(':')[1] ?? '')
    .trim()
    .split(/ +/)
    .map(Number);
  return { packets, bytes };
}

const everything = -1n;

async function listening(): Promise<{ server: Server; port: number }> {
  const server = createServer().listen(0, '0.0.0.0');
  await once(server, 'listening');
  return { server, port: (server.address() as { port: number }).port };
}

function realDriver(): void {
  test('the features follow what the kernel has', () => {
    using guest = new TcpGuest('tsv0', 1, everything);
    const { offered } = guest.bench.driver;
    for (const feature of [FEATURE.csum, FEATURE.guestCsum, FEATURE.hostTso4, FEATURE.guestTso6])
      expect(offered & feature).toBe(feature);
  });

  test('a TCP segment of 60 KB reaches the kernel as one packet, and its program whole', async () => {
    const { server, port } = await listening();
    using guest = new TcpGuest('tsv1', port, everything);
    const pieces: Buffer[] = [];
    server.on('connection', (socket: Socket) => socket.on('data', (data) => pieces.push(data)));
    await guest.connect();
    const data = Uint8Array.from({ length: 60_000 }, (_, i) => (i * 13 + (i >> 8)) & 0xff);
    const before = received('tsv1');
    guest.send(PUSH | ACK, data, true);
    const after = received('tsv1');
    await until(() => pieces.reduce((sum, piece) => sum + piece.length, 0) >= data.length);
    expect(Buffer.compare(Buffer.concat(pieces), data)).toBe(0);
    expect([after.packets - before.packets, after.bytes - before.bytes]).toEqual([1, 60_054]);
    expect(guest.bench.instance.counters().txDropped).toBe(0);
    server.close();
  });

  /** Has the kernel send `bytes` to a guest with these features. */
  async function fetch(name: string, features: bigint): Promise<{ received: Received[]; data: Uint8Array }> {
    const { server, port } = await listening();
    using guest = new TcpGuest(name, port, features);
    const data = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
    server.on('connection', (socket: Socket) => socket.on('error', () => {}).end(data));
    await guest.connect();
    const list: Received[] = [];
    const payload = ({ frame }: Received) => frame.length > DATA_AT;
    let bytes = 0;
    await until(() => {
      for (const each of guest.receive().filter(payload)) {
        list.push(each);
        bytes += each.frame.length - DATA_AT;
      }
      return bytes >= data.length;
    });
    server.close();
    return { received: list, data };
  }

  const bytesOf = (list: readonly Received[]) =>
    Buffer.concat(list.map(({ frame }) => frame.subarray(DATA_AT)));

  test('segments of the kernel arrive unsplit, in several buffers, their checksums left to the guest', async () => {
    const { received: list, data } = await fetch('tsv2', everything);
    expect(Buffer.compare(bytesOf(list), data)).toBe(0);
    const long = list.filter(({ frame }) => frame.length > 1514);
    expect(long.length).toBeGreaterThan(0);
    for (const { flags, gsoType, gsoBytes, buffers, frame } of long) {
      expect([flags, gsoType]).toEqual([VIRTIO_NET_HDR_F_NEEDS_CSUM, GSO_TCPV4]);
      expect(gsoBytes).toBeLessThanOrEqual(MSS);
      expect(buffers).toBe(Math.ceil((12 + frame.length) / RX_BUFFER_BYTES));
    }
  });

  test.each([
    ['no offloads', 0n],
    ['only checksums', FEATURE.guestCsum],
  ])('a guest with %s gets packets of the MTU, with what it can do', async (_what, features) => {
    const { received: list, data } = await fetch('tsv3', FEATURE.version1 | features);
    expect(Buffer.compare(bytesOf(list), data)).toBe(0);
    for (const { flags, gsoType, buffers, frame } of list) {
      expect([gsoType, buffers]).toEqual([0, 1]);
      expect(frame.length).toBeLessThanOrEqual(1514);
      if (features !== 0n) continue;
      expect(flags).toBe(0);
      const length = frame.length - TCP_AT;
      const pseudo = Uint8Array.of(...frame.subarray(26, 34), 0, 6, length >>> 8, length & 0xff);
      expect(inetChecksum(Uint8Array.of(...pseudo, ...frame.subarray(TCP_AT)))).toBe(0);
    }
  });
}

if (isInNamespace()) describe('with the real driver', realDriver);
else {
  test('offloads work with the real driver', (context) => {
    runInNamespace(context, fileURLToPath(import.meta.url));
  });
}

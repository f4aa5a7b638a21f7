/** Checksums and segments that one side leaves to the other, and frames in several buffers. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { FEATURE, maps, STATUS } from './testing/guest.js';
import { Workbench } from './testing/workbench.js';

const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;

const CSUM = 1;
const TSO4 = 2;
const TSO6 = 4;
const USO = 0x60;
const ALL = CSUM | TSO4 | TSO6 | USO;

const NEEDS_CSUM = 1;
const DATA_VALID = 2;
const GSO_TCPV4 = 1;
const GSO_UDP = 3;
const GSO_TCPV6 = 4;
const GSO_UDP_L4 = 5;
const GSO_ECN = 0x80;

const guestFeatures =
  FEATURE.guestCsum | FEATURE.guestTso4 | FEATURE.guestTso6 | FEATURE.guestUso4 | FEATURE.guestUso6;
const hostFeatures = FEATURE.csum | FEATURE.hostTso4 | FEATURE.hostTso6 | FEATURE.hostUso;
const offloads = guestFeatures | hostFeatures;

/** struct virtio_net_hdr_v1; the port leaves the last field to the device. */
function headerOf(flags: number, gsoType: number, segment = 1448): Uint8Array<ArrayBuffer> {
  const header = new Uint8Array(12);
  new DataView(header.buffer).setUint16(4, segment, true);
  header[0] = flags;
  header[1] = gsoType;
  header.set([0xee, 0xee], 10);
  return header;
}

const bodyOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (seed + 7 * i + (i >> 8)) & 0xff);

const framed = (header: Uint8Array, body: Uint8Array): Uint8Array => Uint8Array.from([...header, ...body]);

function deliver(bench: Workbench, ...frames: Uint8Array[]): void {
  bench.port.waiting.push(...frames);
  signalEventfd(bench.port.fd);
  bench.thread.pump();
}

/** The bytes of chains that the device has returned, in order, and what their header says of their number. */
function gather(bench: Workbench, stride: number): { count: number; header: number[]; body: Uint8Array } {
  const { driver, memory } = bench;
  const bytes = driver.rx.reap().flatMap(({ id, length }) => {
    const at = memory.at(RX_BUFFERS + stride * id);
    return [...memory.bytes.subarray(at, at + length)];
  });
  return {
    count: (bytes[10] ?? 0) + 256 * (bytes[11] ?? 0),
    header: bytes.slice(0, 10),
    body: Uint8Array.from(bytes.slice(12)),
  };
}

test.each([
  ['none', undefined, 0n],
  ['checksums', CSUM, FEATURE.csum | FEATURE.guestCsum],
  ['no USO', CSUM | TSO4 | TSO6, offloads & ~(FEATURE.guestUso4 | FEATURE.guestUso6 | FEATURE.hostUso)],
  ['all', ALL, offloads],
] as const)(
  'a port with %s has its features offered, and offloads=off withholds them',
  (_name, has, expected) => {
    const net = has === undefined ? 'fake' : `fake:${has}`;
    using bench = new Workbench({ net });
    expect(bench.driver.offered & offloads).toBe(expected);
    expect(bench.driver.offered & FEATURE.mergeable).toBe(FEATURE.mergeable);
    using without = new Workbench({ net, offloads: 'off' });
    expect(without.driver.offered & offloads).toBe(0n);
  },
);

test.each([
  ['TSO without CSUM', FEATURE.hostTso4],
  ['USO without CSUM', FEATURE.hostUso | FEATURE.guestCsum],
  ['GUEST_TSO6 without GUEST_CSUM', FEATURE.guestTso6 | FEATURE.csum],
  ['GUEST_USO4 without GUEST_CSUM', FEATURE.guestUso4],
])('a driver that accepts %s is refused', (_name, features) => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  expect(() => bench.driver.negotiate(FEATURE.version1 | features)).toThrow('features refused');
});

test('the port is told what the guest takes over, which is USO of both IP versions or none', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver, port } = bench;
  driver.start();
  driver.start({ features: FEATURE.version1 | hostFeatures });
  driver.start({ features: FEATURE.version1 | FEATURE.guestCsum | FEATURE.guestTso4 });
  driver.start({ features: FEATURE.version1 | FEATURE.guestCsum | FEATURE.guestUso4 });
  expect(port.accepted).toEqual([ALL, 0, CSUM | TSO4, CSUM]);
});

test('a segment of 60 KB leaves with its header, as it is', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver, port } = bench;
  driver.start();
  const header = headerOf(NEEDS_CSUM, GSO_TCPV4);
  driver.send(bodyOf(60_000), TX_BUFFERS, header);
  driver.ring(1);
  bench.thread.pump();
  expect(port.sent.map((frame) => frame.length)).toEqual([60_012]);
  expect(Buffer.compare(port.sent[0]!, framed(header, bodyOf(60_000)))).toBe(0);
  expect(bench.instance.counters()).toMatchObject({ txPackets: 1, txBytes: 60_000, txDropped: 0 });
});

test.each([
  ['a checksum to complete', 0n, headerOf(NEEDS_CSUM, 0), 100],
  ['IPv4 segments', FEATURE.csum | FEATURE.hostTso6 | FEATURE.hostUso, headerOf(NEEDS_CSUM, GSO_TCPV4), 100],
  ['IPv6 segments', FEATURE.csum | FEATURE.hostTso4 | FEATURE.hostUso, headerOf(NEEDS_CSUM, GSO_TCPV6), 100],
  ['UDP segments', FEATURE.csum | FEATURE.hostTso4, headerOf(NEEDS_CSUM, GSO_UDP_L4), 100],
  ['UDP fragments', hostFeatures, headerOf(NEEDS_CSUM, GSO_UDP), 100],
  ['segments with ECN', hostFeatures, headerOf(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN), 100],
  ['a kind of segments that nobody knows', hostFeatures, headerOf(0, 77), 100],
  ['a whole frame longer than the MTU', hostFeatures, headerOf(0, 0), 1519],
  ['segments longer than any packet', hostFeatures, headerOf(NEEDS_CSUM, GSO_TCPV4), 65_554],
  ['nothing but a header', hostFeatures, headerOf(0, 0), 0],
] as const)(
  'of a guest that has not negotiated it, or must not, %s is dropped',
  (_name, features, header, bytes) => {
    using bench = new Workbench({ net: `fake:${ALL}` });
    const { driver, port } = bench;
    driver.start({ features: FEATURE.version1 | features });
    driver.send(bodyOf(bytes), TX_BUFFERS, header);
    driver.send(bodyOf(60), TX_BUFFERS + 0x2_0000);
    driver.ring(1);
    bench.thread.pump();
    expect(port.sent.map((frame) => frame.length)).toEqual([72]);
    expect(driver.tx.reap()).toHaveLength(2);
    expect(bench.instance.counters()).toMatchObject({ txPackets: 1, txDropped: 1 });
  },
);

test.each([
  ['a checksum to complete', 0n, headerOf(NEEDS_CSUM, 0), 100],
  ['IPv4 segments', FEATURE.guestCsum | FEATURE.guestTso6, headerOf(NEEDS_CSUM, GSO_TCPV4), 100],
  ['IPv6 segments', FEATURE.guestCsum | FEATURE.guestTso4, headerOf(NEEDS_CSUM, GSO_TCPV6), 100],
  ['UDP segments', FEATURE.guestCsum | FEATURE.guestUso4, headerOf(NEEDS_CSUM, GSO_UDP_L4), 100],
  ['segments with ECN', guestFeatures, headerOf(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN), 100],
  ['a whole frame longer than the MTU', guestFeatures, headerOf(0, 0), 1519],
  ['a segment longer than any packet', guestFeatures, headerOf(NEEDS_CSUM, GSO_TCPV4), 65_554],
] as const)(
  'a guest that has not negotiated it, or cannot, never gets %s',
  (_name, features, header, bytes) => {
    using bench = new Workbench({ net: `fake:${ALL}` });
    const { driver } = bench;
    driver.start({ features: FEATURE.version1 | FEATURE.mergeable | features });
    for (let i = 0; i < 40; i++) driver.provide(RX_BUFFERS + 2048 * i);
    deliver(bench, framed(header, bodyOf(bytes)), framed(headerOf(0, 0), bodyOf(60, 5)));
    expect(gather(bench, 2048)).toMatchObject({ count: 1, body: bodyOf(60, 5) });
    expect(bench.instance.counters()).toMatchObject({ rxPackets: 1, rxDropped: 1 });
  },
);

test('the mark of a valid checksum reaches only a guest with GUEST_CSUM', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver } = bench;
  for (const [features, flags] of [
    [FEATURE.guestCsum, DATA_VALID],
    [0n, 0],
  ] as const) {
    driver.start({ features: FEATURE.version1 | features });
    driver.provide(RX_BUFFERS);
    deliver(bench, framed(headerOf(DATA_VALID, 0, 0), bodyOf(60)));
    expect(gather(bench, 2048).header).toEqual([flags, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  }
});

test('frames that came before the driver was there are lost, whatever they need', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver } = bench;
  deliver(bench, framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(60_000)));
  driver.start();
  driver.provide(RX_BUFFERS);
  deliver(bench, framed(headerOf(0, 0), bodyOf(60)));
  expect(gather(bench, 2048).body).toEqual(bodyOf(60));
});

/** A kind of port and what its frames begin with. */
const ports = [
  ['with headers', `fake:${ALL}`, headerOf(NEEDS_CSUM, GSO_TCPV4)],
  ['of bare frames', 'fake', undefined],
] as const;

test.each(ports)(
  'a long frame of a port %s fills several buffers, which their number in the header tells',
  (_name, net, header) => {
    using bench = new Workbench({ net, mtu: '65535' });
    const { driver } = bench;
    driver.start();
    for (let i = 0; i < 64; i++) driver.provide(RX_BUFFERS + 2048 * i);
    const body = bodyOf(60_000, 3);
    deliver(bench, header === undefined ? body : framed(header, body));
    const got = gather(bench, 2048);
    expect(got.count).toBe(30);
    expect(got.header).toEqual([...(header ?? new Uint8Array(12)).subarray(0, 10)]);
    expect(Buffer.compare(got.body, body)).toBe(0);
    expect(bench.instance.counters()).toMatchObject({ rxPackets: 1, rxBytes: 60_000, rxDropped: 0 });
  },
);

test('one interrupt announces all buffers of a frame, and none is visible without the others', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver } = bench;
  const seen: number[] = [];
  driver.start();
  for (let i = 0; i < 8; i++) driver.provide(RX_BUFFERS + 2048 * i);
  deliver(bench, framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(60_000)));
  seen.push(driver.rx.usedIndex);
  for (let i = 8; i < 32; i++) {
    driver.provide(RX_BUFFERS + 2048 * i);
    driver.ring(0);
    bench.thread.pump();
    seen.push(driver.rx.usedIndex);
  }
  expect([...new Set(seen)]).toEqual([0, 30]);
});

test.each([
  ['without EVENT_IDX', 0n],
  ['with EVENT_IDX', FEATURE.eventIdx],
])('a frame with too few buffers waits, untouched, for as many as it needs, %s', (_name, eventIdx) => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver, memory, port } = bench;
  const features = FEATURE.version1 | FEATURE.mergeable | guestFeatures | eventIdx;
  driver.start({ features });
  const frames = [1, 2].map((seed) => bodyOf(9000, seed));
  for (let i = 0; i < 3; i++) driver.provide(RX_BUFFERS + 2048 * i);
  const header = headerOf(NEEDS_CSUM, GSO_TCPV4);
  deliver(bench, ...frames.map((frame) => framed(header, frame)));
  expect(driver.rx.usedIndex).toBe(0);
  expect(port.waiting).toHaveLength(1);
  // The guest has these back, and may write them.
  memory.bytes.fill(0x55, memory.at(RX_BUFFERS), memory.at(RX_BUFFERS) + 3 * 2048);
  const got: Uint8Array[] = [];
  let doorbells = 0;
  for (let i = 3; i < 10; i++) {
    const from = driver.rx.availIndex;
    driver.provide(RX_BUFFERS + 2048 * i);
    if (!driver.rx.needsDoorbell(from, eventIdx !== 0n)) continue;
    doorbells++;
    driver.ring(0);
    bench.thread.pump();
    if (driver.rx.usedIndex % 5 !== 0) throw new Error('part of a frame');
    if (driver.rx.usedIndex > 5 * got.length) got.push(gather(bench, 2048).body);
  }
  expect(got).toEqual(frames);
  expect(doorbells).toBe(7);
});

test('a frame for which a whole queue of small buffers is too short is dropped, and the next one arrives', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver } = bench;
  driver.start({ queueSize: 16 });
  for (let i = 0; i < 16; i++) driver.provide(RX_BUFFERS + 2048 * i, 256);
  deliver(bench, framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(5000)), framed(headerOf(0, 0), bodyOf(500)));
  expect(gather(bench, 2048)).toMatchObject({ count: 2, body: bodyOf(500) });
  expect(bench.instance.counters()).toMatchObject({ rxPackets: 1, rxDropped: 1 });
});

test('without MRG_RXBUF a long frame takes one chain of many buffers, and is dropped if that is too short', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver, memory } = bench;
  driver.start({ features: FEATURE.version1 | guestFeatures });
  const pieces = Array.from({ length: 17 }, (_, i) => ({
    address: RX_BUFFERS + 8192 * i,
    length: 4096,
    isDeviceWritable: true,
  }));
  driver.provide(RX_BUFFERS + 8192 * 20, 4096);
  driver.rx.add(pieces);
  const frame = framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(60_000));
  deliver(bench, frame);
  expect(driver.rx.usedIndex).toBe(0);
  deliver(bench, framed(headerOf(0, 0), bodyOf(60)), frame);
  expect(driver.rx.reap().map(({ length }) => length)).toEqual([72, 60_012]);
  const got = pieces.flatMap(({ address }) => [
    ...memory.bytes.subarray(memory.at(address), memory.at(address) + 4096),
  ]);
  expect(got.slice(12, 60_012)).toEqual([...bodyOf(60_000)]);
  expect([got[10], got[11]]).toEqual([1, 0]);
});

test.each([
  ['shorter than a header', { address: RX_BUFFERS, length: 11, isDeviceWritable: true }],
  ['of the wrong direction', { address: RX_BUFFERS, length: 2048 }],
  ['outside memory', { address: 0xdead_0000, length: 2048, isDeviceWritable: true }],
])('a further buffer %s stops the queue, and shows nothing of the frame', (_name, buffer) => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver } = bench;
  driver.start();
  driver.provide(RX_BUFFERS + 4096);
  driver.rx.add([buffer]);
  deliver(bench, framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(3000)));
  expect(driver.rx.usedIndex).toBe(0);
  expect(driver.status & STATUS.needsReset).toBe(STATUS.needsReset);
});

test('a reset forgets a frame that waits', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver } = bench;
  driver.start();
  driver.provide(RX_BUFFERS);
  deliver(bench, framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(3000)));
  driver.start();
  for (let i = 0; i < 4; i++) driver.provide(RX_BUFFERS + 2048 * i);
  deliver(bench, framed(headerOf(0, 0), bodyOf(60)));
  expect(gather(bench, 2048).body).toEqual(bodyOf(60));
});

const nap = new Int32Array(new SharedArrayBuffer(4));

/** Lets everything happen that will: turns of remote queues follow each other after a pause. */
function settle(bench: Workbench): void {
  for (let i = 0; i < 6; i++) {
    bench.thread.pump();
    Atomics.wait(nap, 0, 0, 2);
  }
}

test.each([
  ['all private', Object.values(maps).map((map) => ({ ...map, isRemote: true }))],
  ['rings mapped, buffers private', [maps.main, { ...maps.next, isRemote: true }]],
] as const)('long frames pass either way in memory that is %s', (_name, list) => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver, memory, port } = bench;
  memory.map(list);
  driver.start();
  const header = headerOf(NEEDS_CSUM, GSO_TCPV4);
  driver.send(bodyOf(60_000), maps.next.iova + 0x8_0000, header);
  driver.ring(1);
  settle(bench);
  expect(Buffer.compare(port.sent[0] ?? new Uint8Array(), framed(header, bodyOf(60_000)))).toBe(0);
  const at = maps.next.iova;
  for (let i = 0; i < 64; i++) driver.provide(at + 2048 * i);
  driver.ring(0);
  const bodies = [bodyOf(60_000, 1), bodyOf(9000, 2), bodyOf(20_000, 3)];
  port.waiting.push(...bodies.map((body) => framed(header, body)));
  signalEventfd(port.fd);
  settle(bench);
  const used = driver.rx.reap();
  let next = 0;
  for (const body of bodies) {
    const bytes: number[] = [];
    const first = memory.at(at + 2048 * (used[next]?.id ?? 0));
    const chains = memory.bytes[first + 10] ?? 0;
    for (const { id, length } of used.slice(next, next + chains)) {
      const from = memory.at(at + 2048 * id);
      bytes.push(...memory.bytes.subarray(from, from + length));
    }
    next += chains;
    expect(Buffer.compare(Uint8Array.from(bytes.slice(12)), body)).toBe(0);
  }
  expect(next).toBe(used.length);
  expect(bench.instance.counters()).toMatchObject({ rxPackets: 3, rxDropped: 0 });
});

test('in private memory, too, a frame for which all buffers are too few is dropped, and what is not negotiated never arrives', () => {
  using bench = new Workbench({ net: `fake:${ALL}` });
  const { driver, memory, port } = bench;
  memory.map(Object.values(maps).map((map) => ({ ...map, isRemote: true })));
  driver.start({ features: FEATURE.version1 | FEATURE.mergeable | FEATURE.guestCsum | FEATURE.guestTso4 });
  for (let i = 0; i < 4; i++) driver.provide(RX_BUFFERS + 2048 * i);
  driver.ring(0);
  port.waiting.push(
    framed(headerOf(NEEDS_CSUM, GSO_TCPV4), bodyOf(60_000)),
    framed(headerOf(NEEDS_CSUM, GSO_TCPV6), bodyOf(60)),
    framed(headerOf(0, 0), bodyOf(61)),
  );
  signalEventfd(port.fd);
  settle(bench);
  expect(gather(bench, 2048)).toMatchObject({ count: 1, body: bodyOf(61) });
  expect(bench.instance.counters()).toMatchObject({ rxPackets: 1, rxDropped: 2 });
});

test('whatever the sizes of buffers and frames, each frame arrives whole and in order, or is counted as dropped', () => {
  const sizes = fc.array(fc.oneof(fc.integer({ min: 12, max: 40 }), fc.integer({ min: 40, max: 4096 })), {
    minLength: 1,
    maxLength: 16,
  });
  const lengths = fc.array(fc.integer({ min: 14, max: 6000 }), { maxLength: 6 });
  using bench = new Workbench({ net: `fake:${ALL}` });
  fc.assert(
    fc.property(sizes, lengths, fc.boolean(), (rooms, frames, hasMergeable) => {
      const { driver, memory } = bench;
      const before = bench.instance.counters();
      const mergeable = hasMergeable ? FEATURE.mergeable : 0n;
      driver.start({ queueSize: 16, features: FEATURE.version1 | guestFeatures | mergeable });
      const bodies = frames.map((length, i) => bodyOf(length, i));
      for (const [i, room] of rooms.entries()) driver.provide(RX_BUFFERS + 4096 * i, room);
      deliver(bench, ...bodies.map((body) => framed(headerOf(NEEDS_CSUM, GSO_TCPV4), body)));
      const used = driver.rx.reap();
      const got: number[][] = [];
      for (let next = 0; next < used.length; ) {
        const at = memory.at(RX_BUFFERS + 4096 * (used[next] as { id: number }).id);
        const chains = memory.bytes[at + 10] as number;
        const bytes = used.slice(next, next + chains).flatMap(({ id, length }) => {
          const from = memory.at(RX_BUFFERS + 4096 * id);
          return [...memory.bytes.subarray(from, from + length)];
        });
        got.push(bytes.slice(12));
        next += chains;
      }
      // What arrived is part of what was sent, in order; the rest was dropped or waits.
      const after = bench.instance.counters();
      const dropped = after.rxDropped - before.rxDropped;
      expect(after.rxPackets - before.rxPackets).toBe(got.length);
      let from = 0;
      for (const body of got) {
        const found = bodies.findIndex(
          (each, i) => i >= from && Buffer.compare(each, Uint8Array.from(body)) === 0,
        );
        expect(found).toBeGreaterThanOrEqual(from);
        from = found + 1;
      }
      expect(got.length + dropped).toBeLessThanOrEqual(bodies.length);
      if (rooms.length === 16 || !hasMergeable) return;
      expect(dropped, 'a frame waits rather than being dropped').toBe(0);
    }),
    { numRuns: 100 },
  );
});

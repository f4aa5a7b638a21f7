import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RESPONDER_QUEUE_FRAMES } from './responder.js';
import {
  arp,
  BROADCAST,
  decode,
  dhcp,
  ethernet,
  icmpEcho,
  ip,
  ipv4,
  join,
  mac,
  PEER_MAC,
  tcp,
  udp,
} from './testing/frames.js';
import { drain, openResponder } from './testing/wire.js';

test('a frame in any number of parts is one frame', () => {
  const frame = icmpEcho(Uint8Array.from({ length: 200 }, (_, i) => i));
  fc.assert(
    fc.property(fc.array(fc.nat(frame.length), { maxLength: 8 }), (cuts) => {
      const edges = [0, ...cuts.sort((a, b) => a - b), frame.length];
      const parts = edges.slice(1).map((end, i) => frame.slice(edges[i], end));
      using port = openResponder();
      expect(port.transmit(parts)).toBe(true);
      expect(port.pending()).toBe(frame.length);
      const reply = drain(port)[0]!;
      expect(reply.slice(42)).toEqual(frame.slice(42));
    }),
  );
});

test('only frames to its own address and broadcast are received', () => {
  using port = openResponder();
  for (const to of [PEER_MAC, BROADCAST, '52:54:00:00:00:01', '01:00:5e:00:00:01', '33:33:00:00:00:01']) {
    port.transmit([icmpEcho(new Uint8Array(8), { to })]);
  }
  expect(drain(port)).toHaveLength(2);
  expect(port.counters).toMatchObject({ txFrames: 5, taken: 2, notForHost: 3 });
});

test.each([
  ['no parts', []],
  ['nothing', [new Uint8Array()]],
  ['less than an Ethernet header', [new Uint8Array(13)]],
  ['more than the MTU', [new Uint8Array(1000), new Uint8Array(515)]],
])('a frame of %s is dropped', (_, parts) => {
  using port = openResponder();
  expect(port.transmit(parts)).toBe(false);
  expect(port.counters).toMatchObject({ txDropped: 1, txFrames: 0, txBytes: 0 });
});

test('IPv6 and VLAN frames are counted and not answered', () => {
  using port = openResponder();
  for (const type of [0x86dd, 0x8100]) {
    expect(port.transmit([ethernet(new Uint8Array(60), { to: BROADCAST, type })])).toBe(true);
  }
  expect(port.counters).toMatchObject({ unanswered: 2, txBytes: 148 });
});

test('a reply longer than the parts is dropped and counted, and the next one follows', () => {
  using port = openResponder();
  port.transmit([icmpEcho(new Uint8Array(100))]);
  port.transmit([arp()]);
  expect(port.receive([new Uint8Array(100), new Uint8Array(41)])).toBe(-1);
  expect(port.receive([new Uint8Array(40), new Uint8Array(40)])).toBe(42);
  expect(port.receive([new Uint8Array(2000)])).toBe(0);
  expect(port.counters).toMatchObject({ rxDropped: 1, rxFrames: 1, rxBytes: 42 });
});

test('a disposed port takes and yields nothing', () => {
  const port = openResponder();
  port.transmit([arp()]);
  port[Symbol.dispose]();
  port[Symbol.dispose]();
  expect(port.transmit([arp()])).toBe(false);
  expect(port.pending()).toBe(0);
  expect(port.receive([new Uint8Array(2000)])).toBe(0);
});

const anyBytes = fc.uint8Array({ maxLength: 1600 });
const address = fc.constantFrom(
  '10.0.2.2',
  '10.0.2.15',
  '0.0.0.0',
  '255.255.255.255',
  '10.0.2.255',
  '127.0.0.1',
  '224.0.0.1',
);
const to = fc.constantFrom(PEER_MAC, BROADCAST);
const small = fc.uint8Array({ maxLength: 80 });
const field16 = fc.oneof(fc.constantFrom(0, 1, 7, 8, 67, 68, 65_535), fc.nat(65_535));
const field32 = fc.oneof(fc.constantFrom(0, 1, 2, 101, 0xffffffff), fc.nat(0xffffffff));
const flags = fc.subarray(['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG']).map((words) => words.join(' '));
const words = fc
  .array(fc.uint8Array({ minLength: 4, maxLength: 4 }), { maxLength: 10 })
  .map((all) => join(...all));

/** Frames with valid checksums but arbitrary fields, so that checksum tests do not reject them first. */
const plausible = fc.oneof(
  fc.record({ senderIp: address, targetIp: address, operation: field16 }).map(arp),
  fc
    .tuple(fc.integer({ min: 0, max: 255 }), anyBytes, fc.record({ to, source: address, options: words }))
    .map(([protocol, payload, fields]) => ipv4(protocol, payload, fields)),
  fc
    .tuple(anyBytes, fc.record({ to, source: address, id: field16 }))
    .map(([data, fields]) => icmpEcho(data, fields)),
  fc
    .tuple(
      anyBytes,
      fc.record({ to, source: address, destination: address, sourcePort: field16, port: field16 }),
    )
    .map(([data, fields]) => udp(data, fields)),
  fc
    .tuple(
      small,
      fc.record({
        sourcePort: fc.integer({ min: 1, max: 100 }),
        port: fc.constantFrom(7, 7, 7, 80),
        seq: field32,
        ack: field32,
        flags,
        window: field16,
        tcpOptions: words,
      }),
    )
    .map(([data, fields]) => tcp(data, fields)),
  fc
    .tuple(
      fc.nat(9),
      fc.record({
        flags: field16,
        ciaddr: address,
        giaddr: fc.constantFrom('0.0.0.0', '10.0.2.1'),
        raw: small,
      }),
    )
    .map(([type, fields]) => dhcp(type, { ...fields, raw: join(Uint8Array.of(53, 1, type), fields.raw) })),
);

/** One of those frames with a few bytes changed or cut off. */
const damaged = fc
  .tuple(plausible, fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 3 }), fc.option(fc.nat(100)))
  .map(([frame, changes, cut]) => {
    const copy = frame.slice(0, cut === null ? frame.length : cut);
    for (const [at, value] of changes) if (at < copy.length) copy[at] = value;
    return copy;
  });

const noise = fc
  .tuple(fc.constantFrom(mac(PEER_MAC), mac(BROADCAST)), fc.constantFrom(0x0800, 0x0806), anyBytes)
  .map(([destination, type, rest]) => join(destination, mac('52:54:00:12:34:56'), [type, 2], rest));

test('no frame, however hostile, makes it throw, exceeds a bound, or gets a malformed reply', () => {
  const step = fc.record({
    frame: fc.oneof(anyBytes, noise, damaged, plausible),
    repeat: fc.constantFrom(1, 1, 1, 1, 300),
    drains: fc.boolean(),
    waitMs: fc.nat(2000),
  });
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 40 }),
      fc.constantFrom('', 'mtu=576', 'corrupt=1,drop=2'),
      (steps, options) => {
        let now = 0;
        using port = openResponder(options, { now: () => now, initialSequence: () => 0 });
        const longest = options === 'mtu=576' ? 590 : 1514;
        const { counters } = port;
        for (const { frame, repeat, drains, waitMs } of steps) {
          now += waitMs;
          for (let i = 0; i < repeat; i++) {
            expect(port.transmit([frame])).toBe(frame.length >= 14 && frame.length <= longest);
          }
          if (!drains) continue;
          for (let i = 0; i < RESPONDER_QUEUE_FRAMES && port.pending() > 0; i++) {
            const buffer = new Uint8Array(longest);
            const length = port.pending();
            expect(port.receive([buffer])).toBe(length);
            decode(buffer.slice(0, length));
          }
        }
        const { taken, notForHost, malformed, fragmented, unanswered } = counters;
        expect(taken + notForHost + malformed + fragmented + unanswered).toBe(counters.txFrames);
      },
    ),
    { numRuns: 300 },
  );
});

test('a client can get an address by DHCP, resolve the host and ping it', () => {
  using port = openResponder();
  for (const frame of [
    dhcp(1),
    dhcp(3, { dhcpOptions: { 50: ip('10.0.2.15') } }),
    arp(),
    icmpEcho(new Uint8Array(56)),
  ]) {
    expect(port.transmit([frame])).toBe(true);
    expect(drain(port).map(decode)).toHaveLength(1);
  }
  expect(port.counters).toMatchObject({ txFrames: 4, rxFrames: 4, taken: 4, txDropped: 0, rxDropped: 0 });
});

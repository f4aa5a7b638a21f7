import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GUEST, GUEST_MAC, type IcmpFields, icmpEcho, ipv4, join, udp } from './testing/frames.js';
import { drain, exchange, openResponder, replyTo } from './testing/wire.js';

const data = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 7) & 255);

test('an echo of any size up to the MTU comes back with its identifier, sequence and data', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1472 }), fc.nat(65535), fc.nat(65535), (payload, id, sequence) => {
      using port = openResponder();
      const reply = replyTo(port, 'icmp', icmpEcho(payload, { id, sequence }));
      expect([reply.to, reply.destination, reply.body.type, reply.body.code]).toEqual([
        GUEST_MAC,
        GUEST,
        0,
        0,
      ]);
      expect(reply.body.rest).toEqual(join([id, 2], [sequence, 2], payload));
    }),
    {
      examples: [
        [new Uint8Array(), 0, 0],
        [new Uint8Array(1472).fill(255), 65535, 65535],
        [new Uint8Array(1472), 0, 0],
      ],
    },
  );
});

test('header options are skipped, padding after the packet is not echoed', () => {
  using port = openResponder();
  const reply = replyTo(
    port,
    'icmp',
    icmpEcho(data(1), { options: Uint8Array.of(7, 7, 4, 0, 0, 0, 0, 0), padding: 20 }),
  );
  expect(reply.body.rest.slice(4)).toEqual(data(1));
});

test('an echo request larger than the MTU is dropped', () => {
  using port = openResponder();
  expect(port.transmit([icmpEcho(data(1473))])).toBe(false);
  expect(port.counters).toMatchObject({ txDropped: 1, txFrames: 0, txBytes: 0 });
});

test('with a larger MTU, the larger echo comes back', () => {
  using port = openResponder('mtu=9000');
  expect(replyTo(port, 'icmp', icmpEcho(data(8972))).body.rest.slice(4)).toEqual(data(8972));
  expect(port.transmit([icmpEcho(data(8973))])).toBe(false);
});

test.each<[string, IcmpFields, string]>([
  ['with more fragments to come', { fragment: 0x2000 }, 'fragmented'],
  ['that is a later fragment', { fragment: 0x0001 }, 'fragmented'],
  ['with a wrong IP checksum', { checksum: 0x1111 }, 'malformed'],
  ['with a wrong ICMP checksum', { icmpChecksum: 0x1111 }, 'malformed'],
  ['of IP version 6', { version: 6 }, 'malformed'],
  ['with a header shorter than 20 bytes', { ihl: 4 }, 'malformed'],
  ['with a header longer than the packet', { ihl: 15 }, 'malformed'],
  ['with a total length past the frame', { totalBytes: 93 }, 'malformed'],
  ['with a total length below the header', { totalBytes: 19 }, 'malformed'],
  ['with room for no ICMP header', { totalBytes: 27 }, 'malformed'],
  ['from 127.0.0.1', { source: '127.0.0.1' }, 'malformed'],
  ['from 0.0.0.0', { source: '0.0.0.0' }, 'malformed'],
  ['from a multicast address', { source: '224.0.0.1' }, 'malformed'],
  ['from the subnet broadcast address', { source: '10.0.2.255' }, 'malformed'],
  ['from the host itself', { source: '10.0.2.2' }, 'malformed'],
  ['to another address', { destination: '10.0.2.3' }, 'unanswered'],
  ['to the broadcast address', { destination: '10.0.2.255' }, 'unanswered'],
  ['with a code', { code: 1 }, 'unanswered'],
  ['that is a reply', { icmpType: 0 }, 'unanswered'],
  ['that is a timestamp request', { icmpType: 13 }, 'unanswered'],
])('ICMP %s gets no reply and is counted', (_, fields, counter) => {
  using port = openResponder();
  expect(port.transmit([icmpEcho(data(64), fields)])).toBe(true);
  expect(port.pending()).toBe(0);
  expect(port.counters).toMatchObject({ [counter]: 1, taken: 0 });
});

test('the reply that corrupt= names differs in one payload byte under a correct checksum, and no other does', () => {
  using port = openResponder('corrupt=2');
  const replies = [1, 2, 3].map((sequence) =>
    replyTo(port, 'icmp', icmpEcho(data(56), { sequence })).body.rest.slice(4),
  );
  const differences = replies.map((reply) => reply.filter((byte, i) => byte !== data(56)[i]).length);
  expect(differences).toEqual([0, 1, 0]);
  expect(port.counters.corrupted).toBe(1);
});

test('a reply without payload leaves the corruption to the next one that has one', () => {
  using port = openResponder('corrupt=1');
  expect(replyTo(port, 'icmp', icmpEcho(data(0))).body.rest.length).toBe(4);
  expect(replyTo(port, 'icmp', icmpEcho(data(9))).body.rest.slice(4)).not.toEqual(data(9));
  expect(replyTo(port, 'icmp', icmpEcho(data(9))).body.rest.slice(4)).toEqual(data(9));
});

test('the reply that drop= names is dropped, and counts in the numbering', () => {
  using port = openResponder('drop=2,corrupt=3');
  const replies = exchange(port, ...[1, 2, 3].map((sequence) => icmpEcho(data(8), { sequence })));
  expect(replies.map(({ body }) => body.kind === 'icmp' && body.rest[3])).toEqual([1, 3]);
  expect(port.counters).toMatchObject({ swallowed: 1, corrupted: 1, rxDropped: 0 });
});

test('a full queue drops the newest replies and counts them', () => {
  using port = openResponder();
  for (let i = 0; i < 300; i++) expect(port.transmit([icmpEcho(data(0), { sequence: i })])).toBe(true);
  expect(port.counters.rxDropped).toBe(44);
  const frames = drain(port);
  expect(frames.map((frame) => frame[40]! * 256 + frame[41]!)).toEqual(
    Array.from({ length: 256 }, (_, i) => i),
  );
  expect(port.counters).toMatchObject({ rxFrames: 256, rxBytes: 256 * 42 });
});

test('a datagram to a port without a listener is answered with port unreachable that quotes it', () => {
  using port = openResponder();
  const frame = udp(data(100), { port: 53 });
  const { body } = replyTo(port, 'icmp', frame);
  expect([body.type, body.code]).toEqual([3, 3]);
  expect(body.rest).toEqual(join([0, 4], frame.slice(14)));
});

test('port unreachable quotes no more than fits in 576 bytes', () => {
  using port = openResponder();
  const frame = udp(data(1400), { port: 9, options: new Uint8Array(40) });
  port.transmit([frame]);
  expect(port.pending()).toBe(14 + 576);
  const { body } = replyToPending(port);
  expect(body.kind === 'icmp' && body.rest.slice(4)).toEqual(frame.slice(14, 14 + 548));
});

function replyToPending(port: ReturnType<typeof openResponder>) {
  return exchange(port)[0]!;
}

test.each([
  ['in a broadcast frame', udp(data(1), { port: 53, to: 'ff:ff:ff:ff:ff:ff' })],
  [
    'to the broadcast address',
    udp(data(1), { port: 53, to: 'ff:ff:ff:ff:ff:ff', destination: '255.255.255.255' }),
  ],
  ['from no address', udp(data(1), { port: 53, source: '0.0.0.0' })],
  ['of an unknown protocol', ipv4(132, data(20))],
])('a packet %s is never answered with an error', (_, frame) => {
  using port = openResponder();
  port.transmit([frame]);
  expect(port.pending()).toBe(0);
});

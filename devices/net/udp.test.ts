import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GUEST, GUEST_MAC, type UdpFields, udp } from './testing/frames.js';
import { drain, openResponder, replyTo } from './testing/wire.js';

test('any datagram to the echo port comes back to the port it came from', () => {
  const peerPort = fc.integer({ min: 8, max: 65535 });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1472 }), peerPort, (data, sourcePort) => {
      using port = openResponder();
      const reply = replyTo(port, 'udp', udp(data, { sourcePort }));
      expect([reply.to, reply.destination, reply.body.sourcePort, reply.body.port]).toEqual([
        GUEST_MAC,
        GUEST,
        7,
        sourcePort,
      ]);
      expect(reply.body.data).toEqual(data);
    }),
  );
});

test('a datagram without a checksum is echoed with one', () => {
  using port = openResponder();
  expect(replyTo(port, 'udp', udp(Uint8Array.of(1, 2, 3), { udpChecksum: 0 })).body.data).toEqual(
    Uint8Array.of(1, 2, 3),
  );
});

test('a checksum that computes to 0 is sent as ffff, since 0 would mean none', () => {
  using port = openResponder();
  const checksumOfZeroes = udp(new Uint8Array(2)).slice(40, 42);
  const frame = udp(checksumOfZeroes);
  expect(frame.slice(40, 42)).toEqual(new Uint8Array(2));
  port.transmit([frame]);
  expect(drain(port)[0]!.slice(40, 42)).toEqual(Uint8Array.of(0xff, 0xff));
});

test('bytes after the datagram but inside the packet are not echoed', () => {
  using port = openResponder();
  const reply = replyTo(port, 'udp', udp(Uint8Array.of(1, 2, 3), { udpBytes: 9, udpChecksum: 0 }));
  expect(reply.body.data).toEqual(Uint8Array.of(1));
});

test.each<[string, UdpFields, string]>([
  ['with a wrong checksum', { udpChecksum: 1 }, 'malformed'],
  ['shorter than its header', { udpBytes: 7 }, 'malformed'],
  ['longer than the packet', { udpBytes: 12 }, 'malformed'],
  ['in a packet too short for a header', { totalBytes: 27 }, 'malformed'],
  ['from port 0', { sourcePort: 0 }, 'unanswered'],
  ['from another echo service', { sourcePort: 7 }, 'unanswered'],
  ['to the subnet broadcast address', { destination: '10.0.2.255' }, 'unanswered'],
])('a datagram %s is not echoed', (_, fields, counter) => {
  using port = openResponder();
  expect(port.transmit([udp(Uint8Array.of(1, 2, 3), fields)])).toBe(true);
  expect(port.pending()).toBe(0);
  expect(port.counters).toMatchObject({ [counter]: 1 });
});

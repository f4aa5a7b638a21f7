import { expect, test } from 'vitest';
import { arp, BROADCAST, GUEST, GUEST_MAC, PEER, PEER_MAC } from './testing/frames.js';
import { openResponder, replyTo } from './testing/wire.js';

const REPLY = { kind: 'arp', operation: 2, senderMac: PEER_MAC, senderIp: PEER, targetMac: GUEST_MAC };

test('a request for the host is answered to its sender', () => {
  using port = openResponder();
  const reply = replyTo(port, 'arp', arp());
  expect(reply.to).toBe(GUEST_MAC);
  expect(reply.body).toEqual({ ...REPLY, targetIp: GUEST });
});

test('a unicast request, as for a cache refresh, is answered too', () => {
  using port = openResponder();
  expect(replyTo(port, 'arp', arp({ to: PEER_MAC })).body).toEqual({ ...REPLY, targetIp: GUEST });
});

test('a probe for the host’s address is answered, so that it counts as taken', () => {
  using port = openResponder();
  expect(replyTo(port, 'arp', arp({ senderIp: '0.0.0.0' })).body).toEqual({ ...REPLY, targetIp: '0.0.0.0' });
});

test.each([
  ['for another address', arp({ targetIp: '10.0.2.3' }), 'unanswered'],
  ['which is a reply', arp({ operation: 2 }), 'unanswered'],
  ['of other hardware', arp({ hardware: 6 }), 'malformed'],
  ['from a group', arp({ senderMac: '01:00:5e:00:00:01' }), 'malformed'],
  ['one byte short', arp().slice(0, 41), 'malformed'],
  ['to another station', arp({ to: '52:54:00:00:00:01' }), 'notForHost'],
  ['whose Ethernet sender is a group', arp({ from: BROADCAST }), 'malformed'],
] as const)('ARP %s gets no reply and is counted', (_, frame, counter) => {
  using port = openResponder();
  expect(port.transmit([frame])).toBe(true);
  expect(port.pending()).toBe(0);
  expect(port.counters).toMatchObject({ [counter]: 1, taken: 0, txFrames: 1 });
});

import { expect, test } from 'vitest';
import {
  BROADCAST,
  type DhcpFields,
  dhcp,
  GUEST,
  GUEST_MAC,
  icmpEcho,
  ip,
  PEER,
  PEER_MAC,
} from './testing/frames.js';
import { drain, openResponder, replyTo } from './testing/wire.js';

const DISCOVER = 1;
const OFFER = 2;
const REQUEST = 3;
const ACK = 5;
const NAK = 6;
const RELEASE = 7;
const INFORM = 8;

function answer(frame: Uint8Array, address = '') {
  using port = openResponder(address);
  const { to, destination, body } = replyTo(port, 'udp', frame);
  return { to, destination, sourcePort: body.sourcePort, ...body.dhcp! };
}

const LEASE_OPTIONS = {
  1: ip('255.255.255.0'),
  3: ip(PEER),
  6: ip(PEER),
  26: Uint8Array.of(0x05, 0xdc),
  28: ip('10.0.2.255'),
  51: Uint8Array.of(0, 1, 0x51, 0x80),
  54: ip(PEER),
};

test('DISCOVER is offered 10.0.2.15 with mask, router, DNS, MTU and a day of lease', () => {
  expect(answer(dhcp(DISCOVER))).toEqual({
    to: GUEST_MAC,
    destination: GUEST,
    sourcePort: 67,
    op: 2,
    xid: 0xdecafbad,
    flags: 0,
    ciaddr: '0.0.0.0',
    yiaddr: GUEST,
    chaddr: GUEST_MAC,
    options: { ...LEASE_OPTIONS, 53: Uint8Array.of(OFFER) },
  });
});

test('an offer contains nothing of earlier frames', () => {
  using port = openResponder();
  for (let i = 0; i < 256; i++) port.transmit([icmpEcho(new Uint8Array(1472).fill(0xff))]);
  drain(port);
  using fresh = openResponder();
  port.transmit([dhcp(DISCOVER)]);
  fresh.transmit([dhcp(DISCOVER)]);
  expect(drain(port)).toEqual(drain(fresh));
});

test('a client that cannot receive unicast yet is answered by broadcast', () => {
  expect(answer(dhcp(DISCOVER, { flags: 0x8000 }))).toMatchObject({
    to: BROADCAST,
    destination: '255.255.255.255',
    flags: 0x8000,
  });
});

test('the MTU option follows mtu=', () => {
  expect(answer(dhcp(DISCOVER), 'mtu=9000').options[26]).toEqual(Uint8Array.of(0x23, 0x28));
});

test('a client identifier of any length comes back, within the smallest MTU', () => {
  const id = Uint8Array.from({ length: 255 }, (_, i) => i);
  const frame = dhcp(DISCOVER, { dhcpOptions: { 61: id } });
  expect(answer(frame, 'mtu=576').options[61]).toEqual(id);
});

test.each<[string, DhcpFields, number]>([
  ['for the offer', { dhcpOptions: { 50: ip(GUEST), 54: ip(PEER) } }, ACK],
  ['after a reboot, for the address it had', { dhcpOptions: { 50: ip(GUEST) } }, ACK],
  ['after a reboot, for an address of another network', { dhcpOptions: { 50: ip('192.168.1.7') } }, NAK],
  ['for an address other than the one offered', { dhcpOptions: { 50: ip('10.0.2.16'), 54: ip(PEER) } }, NAK],
  ['to renew', { ciaddr: GUEST, source: GUEST, destination: PEER, to: PEER_MAC }, ACK],
  ['to renew an address that was never leased', { ciaddr: '10.0.2.99' }, NAK],
])('REQUEST %s', (_, fields, type) => {
  const reply = answer(dhcp(REQUEST, fields));
  expect(reply.options[53]).toEqual(Uint8Array.of(type));
  if (type === ACK) {
    expect(reply).toMatchObject({ yiaddr: GUEST, to: GUEST_MAC, destination: GUEST, options: LEASE_OPTIONS });
  } else {
    expect(reply).toMatchObject({ yiaddr: '0.0.0.0', to: BROADCAST, destination: '255.255.255.255' });
    expect(Object.keys(reply.options)).toEqual(['53', '54']);
  }
});

test('INFORM gets the parameters at its own address, without a lease', () => {
  const reply = answer(dhcp(INFORM, { ciaddr: '10.0.2.77', source: '10.0.2.77' }));
  const { 51: _, ...parameters } = LEASE_OPTIONS;
  expect(reply).toMatchObject({ destination: '10.0.2.77', ciaddr: '10.0.2.77', yiaddr: '0.0.0.0' });
  expect(reply.options).toEqual({ ...parameters, 53: Uint8Array.of(ACK) });
});

const raw = (...bytes: number[]) => ({ raw: Uint8Array.from(bytes) });

test.each<[string, number, DhcpFields, string]>([
  ['RELEASE', RELEASE, { ciaddr: GUEST }, 'unanswered'],
  ['DECLINE', 4, {}, 'unanswered'],
  [
    'a REQUEST for another server',
    REQUEST,
    { dhcpOptions: { 50: ip(GUEST), 54: ip('10.0.2.3') } },
    'unanswered',
  ],
  ['a REQUEST for nothing', REQUEST, {}, 'unanswered'],
  ['an INFORM without an address', INFORM, {}, 'unanswered'],
  ['a relayed message', DISCOVER, { giaddr: '10.0.2.1' }, 'unanswered'],
  ['a reply', DISCOVER, { op: 2 }, 'unanswered'],
  ['a message with another cookie', DISCOVER, { cookie: 1 }, 'malformed'],
  ['a message of other hardware', DISCOVER, { hlen: 16 }, 'malformed'],
  ['a message from a group address', DISCOVER, { chaddr: BROADCAST }, 'malformed'],
  ['a message without a type', DISCOVER, raw(255), 'malformed'],
  ['a message without options', DISCOVER, raw(), 'malformed'],
  ['an option that runs past the end', DISCOVER, raw(53, 1, 1, 61, 200, 1), 'malformed'],
  ['an option cut before its length', DISCOVER, raw(53, 1, 1, 61), 'malformed'],
  ['a type of two bytes', DISCOVER, raw(53, 2, 1, 1, 255), 'malformed'],
  ['an address of three bytes', REQUEST, raw(53, 1, 3, 50, 3, 10, 0, 2, 255), 'malformed'],
])('%s gets no reply', (_, type, fields, counter) => {
  using port = openResponder();
  port.transmit([dhcp(type, fields)]);
  expect(port.pending()).toBe(0);
  expect(port.counters).toMatchObject({ [counter]: 1 });
});

test('pad bytes between options are skipped, and a missing end mark is tolerated', () => {
  expect(answer(dhcp(DISCOVER, raw(0, 0, 53, 1, 1, 0))).options[53]).toEqual(Uint8Array.of(OFFER));
});

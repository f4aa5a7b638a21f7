import { expect, test } from 'vitest';
import { ECHO_BYTES } from './tcp-connection.js';
import { TCP_CONNECTIONS } from './tcp-echo.js';
import {
  BROADCAST,
  type Decoded,
  type DecodedTcp,
  GUEST,
  GUEST_MAC,
  icmpEcho,
  type TcpFields,
  tcp,
} from './testing/frames.js';
import { drain, exchange, openResponder } from './testing/wire.js';

const ISS = 0xfffffff0;
const text = (value: string) => new TextEncoder().encode(value);
const NONE = new Uint8Array();

/** A responder with a clock controlled by the test, and known sequence numbers. */
function open(address = '') {
  const clock = { now: 0 };
  const port = openResponder(address, { now: () => clock.now, initialSequence: () => ISS });
  const say = (fields: TcpFields, data: Uint8Array = NONE): DecodedTcp[] =>
    exchange(port, tcp(data, fields)).map((reply) => (reply as Decoded<DecodedTcp>).body);
  return { port, clock, say, [Symbol.dispose]: () => port[Symbol.dispose]() };
}

/** The same after a handshake: the guest's next byte is 101, the host's is ISS + 1. */
function connect(fields: TcpFields = {}, address = '') {
  const host = open(address);
  host.say({ flags: 'SYN', seq: 100, ...fields });
  expect(host.say({ seq: 101, ack: ISS + 1, ...fields })).toEqual([]);
  return host;
}

const brief = ({ flags, seq, ack, data }: DecodedTcp) => [
  flags,
  (seq - ISS) | 0,
  ack,
  new TextDecoder().decode(data),
];

test('SYN is answered with SYN ACK, an MSS of MTU less 40, and the whole buffer as window', () => {
  using host = open();
  const replies = exchange(host.port, tcp(NONE, { flags: 'SYN', seq: 0xffffffff }));
  expect(replies).toEqual([
    {
      to: GUEST_MAC,
      source: '10.0.2.2',
      destination: GUEST,
      body: {
        kind: 'tcp',
        sourcePort: 7,
        port: 40_000,
        seq: ISS,
        ack: 0,
        flags: 'SYN ACK',
        window: ECHO_BYTES,
        mss: 1460,
        data: NONE,
      },
    },
  ]);
});

test('SYN with ECN bits opens a connection, as any SYN', () => {
  using host = open('mtu=576');
  expect(host.say({ flags: 'SYN ECE CWR', seq: 1 })[0]).toMatchObject({ flags: 'SYN ACK', mss: 536 });
});

test('a repeated SYN gets the same SYN ACK again', () => {
  using host = open();
  const first = host.say({ flags: 'SYN', seq: 100 });
  expect(host.say({ flags: 'SYN', seq: 100 })).toEqual(first);
});

test('an unanswered SYN ACK is sent again when the guest next sends anything', () => {
  using host = open();
  const first = host.say({ flags: 'SYN', seq: 100 });
  host.clock.now = 999;
  expect(exchange(host.port, icmpEcho(NONE)).map(({ body }) => body.kind)).toEqual(['icmp']);
  host.clock.now = 1000;
  expect(exchange(host.port, icmpEcho(NONE)).map(({ body }) => body)).toEqual([
    expect.objectContaining({ kind: 'icmp' }),
    ...first,
  ]);
});

test('data comes back in the segment that acknowledges it', () => {
  using host = connect();
  expect(host.say({ seq: 101, ack: ISS + 1, flags: 'PSH ACK' }, text('hello')).map(brief)).toEqual([
    ['PSH ACK', 1, 106, 'hello'],
  ]);
});

test('data in the ACK that completes the handshake comes back', () => {
  using host = open();
  host.say({ flags: 'SYN', seq: 100 });
  expect(host.say({ seq: 101, ack: ISS + 1 }, text('early')).map(brief)).toEqual([
    ['PSH ACK', 1, 106, 'early'],
  ]);
});

test('a segment after a gap gets a duplicate ACK, and is echoed once it arrives in order', () => {
  using host = connect();
  expect(host.say({ seq: 104, ack: ISS + 1 }, text('def')).map(brief)).toEqual([['ACK', 1, 101, '']]);
  expect(host.say({ seq: 101, ack: ISS + 1 }, text('abc')).map(brief)).toEqual([['PSH ACK', 1, 104, 'abc']]);
  expect(host.say({ seq: 104, ack: ISS + 4 }, text('def')).map(brief)).toEqual([['PSH ACK', 4, 107, 'def']]);
});

test('a repeated segment gets a duplicate ACK and no second echo; of an overlap only the new part is echoed', () => {
  using host = connect();
  host.say({ seq: 101, ack: ISS + 1 }, text('abc'));
  expect(host.say({ seq: 101, ack: ISS + 4 }, text('abc')).map(brief)).toEqual([['ACK', 4, 104, '']]);
  expect(host.say({ seq: 102, ack: ISS + 4 }, text('bcde')).map(brief)).toEqual([['PSH ACK', 4, 106, 'de']]);
});

test('a keep-alive probe gets an ACK', () => {
  using host = connect();
  expect(host.say({ seq: 100, ack: ISS + 1 }).map(brief)).toEqual([['ACK', 1, 101, '']]);
});

test('segments are no larger than the announced MSS, 536 without one, and the MTU allow', () => {
  const sizes = (fields: TcpFields, address = '') => {
    using host = connect(fields, address);
    const half = new Uint8Array(700);
    const replies = [
      ...host.say({ seq: 101, ack: ISS + 1 }, half),
      ...host.say({ seq: 801, ack: ISS + 1 }, half),
    ];
    return replies.map(({ data }) => data.length);
  };
  expect(sizes({ tcpOptions: Uint8Array.of(1, 2, 4, 1, 0x2c, 0, 0, 0) })).toEqual([
    300, 300, 100, 300, 300, 100,
  ]);
  expect(sizes({})).toEqual([536, 164, 536, 164]);
  expect(sizes({ tcpOptions: Uint8Array.of(2, 4, 0xff, 0xff) })).toEqual([700, 700]);
  expect(sizes({ tcpOptions: Uint8Array.of(3, 0, 2, 4) })).toEqual([536, 164, 536, 164]);
});

test('the peer’s window is filled but not exceeded, and a window update releases the rest', () => {
  using host = connect({ window: 4 });
  expect(host.say({ seq: 101, ack: ISS + 1, window: 4 }, text('abcdefgh')).map(brief)).toEqual([
    ['ACK', 1, 109, 'abcd'],
  ]);
  expect(host.say({ seq: 109, ack: ISS + 5, window: 0 }).map(brief)).toEqual([]);
  expect(host.say({ seq: 109, ack: ISS + 5, window: 9 }).map(brief)).toEqual([['PSH ACK', 5, 109, 'efgh']]);
});

test('a window that stays zero is probed with one byte', () => {
  using host = connect({ window: 0 });
  expect(host.say({ seq: 101, ack: ISS + 1, window: 0 }, text('ab')).map(brief)).toEqual([
    ['ACK', 1, 103, ''],
  ]);
  host.clock.now = 1000;
  expect(host.say({ seq: 103, ack: ISS + 1, window: 0 }).map(brief)).toEqual([['ACK', 1, 103, 'a']]);
});

test('with the buffer full, the window is zero, further data is ignored, and an ACK opens it again', () => {
  using host = connect({ window: 0 });
  const full = new Uint8Array(1024);
  for (let at = 0; at < ECHO_BYTES; at += 1024) {
    expect(host.say({ seq: 101 + at, ack: ISS + 1, window: 0 }, full)[0]!.window).toBe(
      ECHO_BYTES - at - 1024,
    );
  }
  const seq = 101 + ECHO_BYTES;
  expect(host.say({ seq, ack: ISS + 1, window: 0 }, text('x')).map(brief)).toEqual([['ACK', 1, seq, '']]);
  const echoed = host.say({ seq, ack: ISS + 1, window: 60_000 });
  expect(echoed.reduce((sum, { data }) => sum + data.length, 0)).toBe(ECHO_BYTES);
  const [update] = host.say({ seq, ack: ISS + 1 + ECHO_BYTES, window: 60_000 });
  expect(update).toMatchObject({ flags: 'ACK', window: ECHO_BYTES });
});

/**
 * A connection whose peer has a zero window, with all but `room` bytes of the buffer filled. Its next byte is `seq`.
 */
function connectFull(room: number) {
  const host = connect({ window: 0 });
  let seq = 101;
  for (const end = 101 + ECHO_BYTES - room; seq < end; ) {
    const bytes = Math.min(1024, end - seq);
    host.say({ seq, ack: ISS + 1, window: 0 }, new Uint8Array(bytes));
    seq += bytes;
  }
  return { ...host, seq };
}

test('a few free bytes do not reopen a closed window', () => {
  using host = connectFull(0);
  const { seq } = host;
  host.say({ seq, ack: ISS + 1, window: 100 });
  const [reply] = host.say({ seq, ack: ISS + 101, window: 1 });
  expect(reply).toMatchObject({ window: 0, data: new Uint8Array(1) });
});

test('a FIN after bytes that do not fit is ignored, one at the window’s edge is accepted', () => {
  using host = connectFull(2);
  const { seq } = host;
  expect(host.say({ seq, ack: ISS + 1, window: 0, flags: 'FIN ACK' }, text('abc')).map(brief)).toEqual([
    ['ACK', 1, seq + 2, ''],
  ]);
  expect(host.say({ seq: seq + 2, ack: ISS + 1, window: 0, flags: 'FIN ACK' }).map(brief)).toEqual([
    ['ACK', 1, seq + 3, ''],
  ]);
});

test('a FIN is held back by a zero window, and sent as a probe', () => {
  using host = connect({ window: 0 });
  expect(host.say({ seq: 101, ack: ISS + 1, window: 0, flags: 'FIN ACK' }).map(brief)).toEqual([
    ['ACK', 1, 102, ''],
  ]);
  host.clock.now = 1000;
  expect(host.say({ seq: 102, ack: ISS + 1, window: 0 }).map(brief)).toEqual([['FIN ACK', 1, 102, '']]);
});

test('FIN is acknowledged and answered with FIN; its ACK closes the connection', () => {
  using host = connect();
  expect(host.say({ seq: 101, ack: ISS + 1, flags: 'FIN ACK' }, text('bye')).map(brief)).toEqual([
    ['PSH ACK', 1, 105, 'bye'].map((field) => (field === 'PSH ACK' ? 'FIN PSH ACK' : field)),
  ]);
  expect(host.say({ seq: 105, ack: ISS + 5 })).toEqual([]);
  expect(host.say({ seq: 105, ack: ISS + 5 }).map(({ flags }) => flags)).toEqual(['RST']);
});

test('FIN is sent after all data is echoed', () => {
  using host = connect({ window: 2 });
  expect(host.say({ seq: 101, ack: ISS + 1, window: 2, flags: 'FIN ACK' }, text('abc')).map(brief)).toEqual([
    ['ACK', 1, 105, 'ab'],
  ]);
  expect(host.say({ seq: 105, ack: ISS + 3, window: 2 }).map(brief)).toEqual([['FIN PSH ACK', 3, 105, 'c']]);
});

test('a lost FIN is sent again', () => {
  using host = connect();
  expect(host.say({ seq: 101, ack: ISS + 1, flags: 'FIN ACK' }).map(brief)).toEqual([
    ['FIN ACK', 1, 102, ''],
  ]);
  host.clock.now = 1000;
  expect(host.say({ seq: 101, ack: ISS + 1, flags: 'FIN ACK' }).map(brief)).toEqual([
    ['ACK', 2, 102, ''],
    ['FIN ACK', 1, 102, ''],
  ]);
});

test('the third duplicate ACK retransmits the first missing segment, and the fourth nothing', () => {
  using host = connect({ tcpOptions: Uint8Array.of(2, 4, 0, 50) });
  const sent = host.say({ seq: 101, ack: ISS + 1 }, new Uint8Array(150));
  expect(sent.map(({ data }) => data.length)).toEqual([50, 50, 50]);
  const duplicate = () => host.say({ seq: 251, ack: ISS + 1 });
  expect([duplicate(), duplicate()]).toEqual([[], []]);
  expect(duplicate()).toEqual([{ ...sent[0]!, ack: 251 }]);
  expect(duplicate()).toEqual([]);
  expect(host.say({ seq: 251, ack: ISS + 1 }, text('x')).map(brief)).toEqual([['PSH ACK', 151, 252, 'x']]);
});

test('an ACK of everything sent is accepted during a retransmission', () => {
  using host = connect({ window: 4 });
  host.say({ seq: 101, ack: ISS + 1, window: 4 }, text('abcdefgh'));
  host.say({ seq: 109, ack: ISS + 1, window: 0 });
  host.clock.now = 1000;
  expect(host.say({ seq: 109, ack: ISS + 1, window: 0 }).map(brief)).toEqual([['ACK', 1, 109, 'a']]);
  expect(host.say({ seq: 109, ack: ISS + 5, window: 4 }).map(brief)).toEqual([['PSH ACK', 5, 109, 'efgh']]);
});

test('a late old segment does not reopen the window', () => {
  using host = connect({ window: 2 });
  host.say({ seq: 101, ack: ISS + 1, window: 2 }, text('abcd'));
  expect(host.say({ seq: 105, ack: ISS + 3, window: 0 })).toEqual([]);
  expect(host.say({ seq: 105, ack: ISS + 1, window: 60_000 })).toEqual([]);
  host.say({ seq: 107, ack: ISS + 3, window: 0 }, text('after a gap'));
  expect(host.say({ seq: 105, ack: ISS + 3, window: 60_000 })).toEqual([]);
  expect(host.say({ seq: 107, ack: ISS + 3, window: 60_000 }).map(brief)).toEqual([
    ['PSH ACK', 3, 105, 'cd'],
  ]);
});

test('unacknowledged data is retransmitted after one second, then after two more', () => {
  using host = connect();
  host.say({ seq: 101, ack: ISS + 1 }, text('abc'));
  const at = (ms: number) => {
    host.clock.now = ms;
    return exchange(host.port, icmpEcho(NONE)).length - 1;
  };
  expect([999, 1000, 2999, 3000].map(at)).toEqual([0, 1, 0, 1]);
});

test.each<[string, TcpFields, string]>([
  ['SYN to another port', { flags: 'SYN', seq: 5, port: 80 }, 'RST ACK 0 6'],
  ['SYN with FIN', { flags: 'FIN SYN', seq: 5 }, 'RST ACK 0 7'],
  ['SYN ACK to nobody', { flags: 'SYN ACK', seq: 5, ack: 9 }, 'RST 9 0'],
  ['ACK to nobody', { flags: 'ACK', seq: 5, ack: 9 }, 'RST 9 0'],
  ['no flags at all', { flags: '', seq: 5 }, 'RST ACK 0 5'],
  ['FIN to nobody', { flags: 'FIN', seq: 0xffffffff }, 'RST ACK 0 0'],
])('%s is reset', (_, fields, reply) => {
  using host = open();
  expect(host.say(fields).map(({ flags, seq, ack }) => `${flags} ${seq} ${ack}`)).toEqual([reply]);
});

test.each<[string, TcpFields, string]>([
  ['RST to nobody', { flags: 'RST' }, 'unanswered'],
  ['a SYN in a broadcast frame', { flags: 'SYN', to: BROADCAST }, 'unanswered'],
  ['a wrong checksum', { flags: 'SYN', tcpChecksum: 3 }, 'malformed'],
  ['a data offset below the header', { flags: 'SYN', dataOffset: 4 }, 'malformed'],
  ['a data offset past the segment', { flags: 'SYN', dataOffset: 15 }, 'malformed'],
  ['source port 0', { flags: 'SYN', sourcePort: 0 }, 'malformed'],
  ['no room for a header', { flags: 'SYN', totalBytes: 39 }, 'malformed'],
])('%s gets no reply', (_, fields, counter) => {
  using host = open();
  expect(host.say(fields)).toEqual([]);
  expect(host.port.counters).toMatchObject({ [counter]: 1 });
});

test('a wrong ACK of the SYN ACK is reset, and the correct one still connects', () => {
  using host = open();
  host.say({ flags: 'SYN', seq: 100 });
  expect(host.say({ seq: 101, ack: ISS + 2 }).map(({ flags, seq }) => [flags, seq])).toEqual([
    ['RST', ISS + 2],
  ]);
  expect(host.say({ seq: 101, ack: ISS + 1 }, text('a')).map(brief)).toEqual([['PSH ACK', 1, 102, 'a']]);
});

test('RST ends a connection only with the next sequence number; elsewhere in the window it is challenged', () => {
  using host = connect();
  expect(host.say({ flags: 'RST', seq: 102 }).map(brief)).toEqual([['ACK', 1, 101, '']]);
  expect(host.say({ flags: 'RST', seq: 100 })).toEqual([]);
  expect(host.say({ flags: 'RST', seq: 101 })).toEqual([]);
  expect(host.say({ seq: 101, ack: ISS + 1 }).map(({ flags }) => flags)).toEqual(['RST']);
});

test('SYN on an open connection is challenged, and an ACK of data never sent is answered with the correct one', () => {
  using host = connect();
  expect(host.say({ flags: 'SYN', seq: 77_777 }).map(brief)).toEqual([['ACK', 1, 101, '']]);
  expect(host.say({ seq: 101, ack: ISS + 9 }, text('no')).map(brief)).toEqual([['ACK', 1, 101, '']]);
});

test('one connection too many resets the one idle longest', () => {
  using host = open();
  for (let i = 0; i < TCP_CONNECTIONS; i++) {
    host.say({ flags: 'SYN', seq: 100, sourcePort: 1000 + i });
    host.say({ seq: 101, ack: ISS + 1, sourcePort: 1000 + i });
  }
  host.say({ seq: 101, ack: ISS + 1, sourcePort: 1000 }, text('still here'));
  const replies = host.say({ flags: 'SYN', seq: 100, sourcePort: 9999 });
  expect(replies.map(({ flags, port }) => [flags, port])).toEqual([
    ['RST ACK', 1001],
    ['SYN ACK', 9999],
  ]);
  expect(host.port.counters.evicted).toBe(1);
});

test('a slow reader of the queue loses no segment, and a ping still gets through', () => {
  using host = connect({ tcpOptions: Uint8Array.of(2, 4, 0, 100) });
  const bytes = ECHO_BYTES;
  for (let at = 0; at < bytes; at += 1024) {
    host.port.transmit([tcp(new Uint8Array(1024).fill(at >> 10), { seq: 101 + at, ack: ISS + 1 })]);
  }
  host.port.transmit([icmpEcho(NONE)]);
  const replies = drain(host.port).map((frame) => frame.length);
  expect(replies.filter((length) => length === 42)).toHaveLength(1);
  const echoed = replies.filter((length) => length > 54).reduce((sum, length) => sum + length - 54, 0);
  expect(echoed).toBe(bytes);
  expect(host.port.counters.rxDropped).toBe(0);
});

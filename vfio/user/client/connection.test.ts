/** What ends a connection to a server, and what does not. */
import { expect, test } from 'vitest';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import {
  VFIO_USER_DMA_READ as DMA_READ,
  VFIO_USER_DEVICE_GET_INFO as INFO,
  VFIO_USER_DEVICE_RESET as RESET,
  VFIO_USER_VERSION as VERSION,
} from '../protocol.js';
import {
  bytes,
  client,
  type Frame,
  type Line,
  ourVersion,
  server,
  version,
} from '../testing/peers/session.js';
import { playServer } from '../testing/scripted-server.js';
import { Connection, hasNews } from './connection.js';

const TIMEOUT_MS = 20_000;
const hello = (minor = 2, json = '{}'): readonly Line[] => [
  ourVersion,
  server.answers(VERSION, bytes(version(minor), json)),
];
const play = (
  lines: readonly Line[],
  use: (connection: Connection, path: string) => void,
  fds: Readonly<Record<string, Fd>> = {},
): Promise<void> =>
  playServer(lines, fds, (address) => {
    const path = address.slice('vfio-user:'.length);
    using connection = Connection.open(path, TIMEOUT_MS);
    use(connection, path);
  });

test.each([0, 1, 2])('a server of 0.%i is taken, with the capabilities that it has', async (minor) => {
  const json =
    '{"capabilities":{"max_msg_fds":3,"max_data_xfer_size":8192,"max_dma_maps":7,"pgsizes":65536}}';
  await play(hello(minor, json), (connection, path) => {
    expect([connection.minor, connection.path, connection.isGone]).toEqual([minor, path, false]);
    expect(connection.capabilities).toMatchObject({
      ...{ maxMsgFds: 3, maxDataXferSize: 8192, maxDmaMaps: 7, pgsizes: 65_536 },
    });
    expect([connection.twin, connection.dmaTable]).toEqual([undefined, undefined]);
  });
});

test.each<[string, readonly Line[], RegExp]>([
  ['a later minor version', hello(3), /ENODEV\n.*replies with version 0\.3 to 0\.2/],
  ['another major version', hello(2).with(1, server.answers(VERSION, bytes(version(0) + 1))), /ENOTSUP/],
  ['a refusal', [ourVersion, server.refuses(VERSION, 22)], /^VFIO_USER_VERSION on .*EINVAL/],
  [
    'a twin socket that is not there',
    hello(2, '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}'),
    /its twin socket is no socket/,
  ],
  [
    'a twin socket without a number',
    hello(2, '{"capabilities":{"twin_socket":{"supported":true}}}'),
    /its twin socket is no socket/,
  ],
])('%s instead of a version is an error', async (_what, lines, error) => {
  await playServer(lines, {}, (address) => {
    const open = () => Connection.open(address.slice('vfio-user:'.length), TIMEOUT_MS);
    expect(open).toThrowError(error);
  });
});

/** The last column: whether it ends the connection. */
test.each<[string, Frame, RegExp, boolean]>([
  ['an errno', server.refuses(RESET, 16), /^VFIO_USER_DEVICE_RESET on .*: EBUSY/, false],
  ['an error without errno', server.refuses(RESET, 0), /: EINVAL$/, false],
  ['an errno that is none', server.refuses(RESET, 4096), /: EINVAL$/, false],
  [
    'an answer to something else',
    server.answers(INFO),
    /ENODEV\n.*it answers VFIO_USER_DEVICE_GET_INFO/,
    true,
  ],
])(
  '%s fails the command, and ends the connection only if it breaks the protocol',
  async (_what, answer, error, isEnd) => {
    const goesOn = isEnd ? [] : [client.asks(RESET), server.answers(RESET, bytes(5))];
    await play([...hello(), client.asks(RESET), answer, ...goesOn], (connection) => {
      const ends: string[] = [];
      connection.whenGone(() => ends.push('before'));
      expect(() => connection.ask(RESET)).toThrowError(error);
      expect([connection.isGone, ends.length]).toEqual([isEnd, isEnd ? 1 : 0]);
      if (!isEnd) expect([...connection.ask(RESET).payload]).toEqual([...bytes(5)]);
      else
        expect(() => connection.post(RESET, bytes())).toThrowError(
          /^VFIO_USER_DEVICE_RESET on .*ENODEV\n.*it answers/,
        );
      connection.whenGone(() => ends.push('after'));
      expect(ends).toEqual(isEnd ? ['before', 'after'] : []);
    });
  },
);

test('an answer has as many descriptors as were asked for', async () => {
  using bell = Fd.eventfd('bell');
  const lines = [client.asks(INFO), server.answers(INFO, bytes(1), { fds: ['bell', 'bell', 'bell'] })];
  await play(
    [...hello(), ...lines, ...lines],
    (connection) => {
      const { fds } = connection.ask(INFO, undefined, [], 2);
      expect(fds).toHaveLength(2);
      for (const fd of fds) fd[Symbol.dispose]();
      expect(connection.ask(INFO).fds).toEqual([]);
    },
    { bell },
  );
});

test.each([64, 65])('an answer with %i descriptors: 64 are taken, more end the connection', async (count) => {
  using bell = Fd.eventfd('bell');
  const answer = server.answers(INFO, bytes(1), { fds: new Array(count).fill('bell') });
  await play(
    [...hello(), client.asks(INFO), answer],
    (connection) => {
      const ask = () => connection.ask(INFO, undefined, [], 64).fds;
      if (count > 64) expect(ask).toThrowError(/more than 64 descriptors/);
      else expect(ask().map((fd) => fd[Symbol.dispose]())).toHaveLength(64);
    },
    { bell },
  );
});

test('requests are served while an answer is awaited; without a handler they are refused', async () => {
  const request = server.asks(DMA_READ, bytes(1n, 2n));
  const lines = [
    ...[client.asks(RESET), request, client.refuses(DMA_READ, 22), server.answers(RESET)],
    ...[client.asks(RESET), request, client.refuses(DMA_READ, 14), server.answers(RESET)],
    ...[client.asks(RESET), request, client.answers(DMA_READ, bytes(9))],
    ...[server.posts(DMA_READ, bytes(1n, 2n)), server.answers(RESET)],
  ];
  await play([...hello(), ...lines], (connection) => {
    let backlogs = 0;
    connection.whenBacklog(() => backlogs++);
    connection.ask(RESET);
    connection.setHandler(() => {
      throw new SysError({ call: 'copy', target: 'memory', errno: 14 });
    });
    connection.ask(RESET);
    const asked: unknown[] = [];
    connection.setHandler((command, payload) => {
      asked.push([command, [...payload]]);
      return bytes(9);
    });
    connection.ask(RESET);
    const one = [DMA_READ, [...bytes(1n, 2n)]];
    expect(asked).toEqual([one, one]);
    expect(backlogs).toBe(0);
  });
});

test('commands that wait for no reply of another are sent first, and each has the error that the server answers', async () => {
  const lines = [
    ...[1, 2, 3].map((n) => client.asks(RESET, bytes(n))),
    ...[server.answers(RESET), server.refuses(RESET, 16), server.answers(RESET)],
    ...[client.asks(RESET), server.answers(RESET)],
  ];
  await play([...hello(), ...lines], (connection) => {
    const requests = [1, 2, 3].map((n) => ({ payload: bytes(n), fds: [] }));
    expect(connection.askEach(RESET, requests).map((error) => error?.code)).toEqual([
      undefined,
      'EBUSY',
      undefined,
    ]);
    connection.ask(RESET);
  });
});

test('64 commands at most are without a reply', async () => {
  const sent = Array.from({ length: 65 }, (_, n) => n);
  const lines: Line[] = sent.slice(0, 64).map((n) => client.asks(RESET, bytes(n)));
  lines.push(server.answers(RESET), client.asks(RESET, bytes(64)));
  for (const _ of sent.slice(1)) lines.push(server.answers(RESET));
  await play([...hello(), ...lines], (connection) => {
    const requests = sent.map((n) => ({ payload: bytes(n), fds: [] }));
    expect(connection.askEach(RESET, requests)).toEqual(sent.map(() => undefined));
  });
});

/** Waits until the server has said something, or signalled an eventfd. */
function news({ fd }: { readonly fd: number }): void {
  const deadline = performance.now() + TIMEOUT_MS;
  while (!hasNews(fd) && performance.now() < deadline);
}

test('requests are served when nothing is awaited', async () => {
  const lines = [
    client.posts(RESET),
    server.asks(DMA_READ, bytes(1n, 2n)),
    client.answers(DMA_READ, bytes(9)),
  ];
  await play([...hello(), ...lines], (connection) => {
    connection.setHandler(() => bytes(9));
    connection.serveRequests();
    expect(hasNews(connection.fd)).toBe(false);
    connection.post(RESET, bytes());
    news(connection);
    connection.serveRequests();
    expect(connection.isGone).toBe(false);
  });
});

const bellRequest: readonly Line[] = [
  client.asks(INFO, bytes(), { fds: ['bell'] }),
  server.answers(INFO, bytes()),
];

test.each([
  [255, 255, 0],
  [256, 256, 1],
  [257, 256, 1],
])(
  'of %i requests %i are served at a time, which reports a backlog %i times',
  async (sent, most, reports) => {
    using bell = Fd.eventfd('bell');
    const posts = new Array<Line>(sent).fill(server.posts(DMA_READ));
    await play([...hello(), ...bellRequest, ...posts, { signal: 'bell' }], (connection) => {
      let served = 0;
      let backlogs = 0;
      connection.setHandler(() => {
        served++;
        return bytes();
      });
      connection.ask(INFO, undefined, [bell.number]);
      news({ fd: bell.number });
      connection.whenBacklog(() => backlogs++);
      backlogs = 0; // some may have come with the reply before
      connection.serveRequests();
      expect([served, backlogs]).toEqual([most, reports]);
      connection.serveRequests();
      expect([served, backlogs]).toEqual([sent, reports]);
    });
  },
);

/** With id 3, the server replies to RESET before it is asked: one read then receives the reply and the request. */
const replyWithRequest: readonly Line[] = [
  ...hello(),
  ...bellRequest,
  server.answers(RESET, bytes(), { id: 3, isJoined: true }),
  server.asks(DMA_READ),
  { signal: 'bell' },
  client.asks(RESET),
  client.answers(DMA_READ, bytes(9)),
];

test.each(['before', 'after'])(
  'a request that is received with a reply is a backlog, for who asks %s it is there',
  async (when) => {
    using bell = Fd.eventfd('bell');
    await play(replyWithRequest, (connection) => {
      let backlogs = 0;
      connection.setHandler(() => bytes(9));
      connection.ask(INFO, undefined, [bell.number]);
      news({ fd: bell.number });
      if (when === 'before') connection.whenBacklog(() => backlogs++);
      backlogs = 0; // they may have come with the reply before
      connection.ask(RESET);
      expect(hasNews(connection.fd)).toBe(false);
      if (when === 'after') connection.whenBacklog(() => backlogs++);
      expect(backlogs).toBe(1);
      connection.serveRequests();
      expect(backlogs).toBe(1);
    });
  },
);

test('an answer when nothing is awaited ends the connection', async () => {
  await play([...hello(), client.posts(RESET), server.answers(RESET)], (connection) => {
    connection.post(RESET, bytes());
    news(connection);
    connection.serveRequests();
    expect(connection.isGone).toBe(true);
    expect(() => connection.ask(RESET)).toThrowError(/ENODEV\n.*it sent a reply without a request/);
    connection.serveRequests();
  });
});

test('a connection that is given up stays so, for the first reason', async () => {
  await play(hello(), (connection) => {
    const ends: number[] = [];
    connection.whenGone(() => ends.push(1));
    connection.giveUp('first');
    connection.giveUp('second');
    expect(ends).toEqual([1]);
    expect(() => connection.ask(RESET)).toThrowError(/ENODEV\n.*first/);
  });
});

test('a connection that is closed calls nobody back', async () => {
  await play(hello(), (connection) => {
    const ends: number[] = [];
    connection.whenGone(() => ends.push(1));
    connection[Symbol.dispose]();
    expect([connection.isGone, ends]).toEqual([true, []]);
    expect(() => connection.ask(RESET)).toThrowError(/ENODEV/);
  });
});

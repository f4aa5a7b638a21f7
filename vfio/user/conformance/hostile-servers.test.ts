/** Servers that answer nothing, too much, garbage, or leave: the suite ends, and tells so. */
import { expect, test } from 'vitest';
import { SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { Channel } from '../channel.js';
import { encodeCommand, encodeReply } from '../message.js';
import { hostCard } from '../testing/card.js';
import { checkVfioUserServer } from './check-server.js';
import { PROPOSAL, version } from './payloads.js';
import type { VfioUserConformance } from './report.js';
import { InlineServer } from './testing/inline-server.js';

const PATIENCE_MS = 300;
/** Where no rule ends by it. */
const FOR_EVER_MS = 30_000;
const VERSION = 1;

/** Calls `turn` with each connection, again and again; it throws where it cannot go on. */
async function checkOdd(
  turn: (channel: Channel) => void,
  patienceMs = PATIENCE_MS,
): Promise<VfioUserConformance> {
  using scope = new Scope();
  const open = new Set<Channel>();
  let isOver = false;
  const work = () => {
    if (isOver) return;
    for (const channel of open) {
      try {
        turn(channel);
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
        open.delete(channel);
        channel[Symbol.dispose]();
      }
    }
    setImmediate(work);
  };
  work();
  scope.defer(() => {
    isOver = true;
    for (const channel of open) channel[Symbol.dispose]();
  });
  const connect = (): Fd => {
    const [near, far] = unixSocketPair('odd');
    const channel = new Channel(far);
    channel.setTimeouts(1, 1);
    open.add(channel);
    return near;
  };
  return await checkVfioUserServer(connect, { patienceMs });
}

const verdicts = ({ results }: VfioUserConformance) => new Set(results.map(({ verdict }) => verdict));

/** Answers the version, and nothing else. */
function agree(channel: Channel): boolean {
  const message = channel.receive(false);
  if (message?.command !== VERSION) return false;
  channel.send(encodeReply(message.id, VERSION, version(PROPOSAL)));
  return true;
}

test('a server that says nothing at all is waited for once', async () => {
  const report = await checkOdd(() => {});
  expect(report.ended).toBe('it does not agree on version 0.2: nothing for 0.3 s');
  expect(verdicts(report)).toEqual(new Set(['not applicable']));
}, 60_000);

test('a server that agrees on a version and says nothing more is not waited for in every rule', async () => {
  const report = await checkOdd(agree);
  expect(report.ended).toBe('it has said nothing in 5 rules in a row');
  expect(verdicts(report)).toContain('failed');
}, 60_000);

test('commands of a server without end are answered up to a limit, which fails the rule', async () => {
  const command = encodeCommand(1, 11, new Uint8Array(16));
  const flood = Buffer.concat(Array.from({ length: 300 }, () => command));
  const report = await checkOdd((channel) => {
    const message = channel.receive(false);
    if (message === undefined || (message.flags & 1) !== 0) return;
    channel.send(message.command === VERSION ? encodeReply(message.id, VERSION, version(PROPOSAL)) : flood);
  }, FOR_EVER_MS);
  const info = report.results.find(({ name }) => name === 'device-info');
  expect(info).toMatchObject({ verdict: 'failed', got: 'more than 256 commands of the server' });
}, 60_000);

test('bytes that are no message, and messages of gigabytes, are told as what they are', async () => {
  const garbage = await checkOdd((channel) => {
    if (channel.receive(false) !== undefined) channel.send(new Uint8Array(64).fill(0xff));
  });
  expect(garbage.ended).toMatch(/it does not agree on version 0\.2: .*message of 4294967295 bytes/);
  expect(verdicts(garbage)).toEqual(new Set(['not applicable']));
}, 60_000);

test('a server that closes each connection ends the run', async () => {
  const report = await checkOdd((channel) => {
    if (channel.receive(false) !== undefined)
      throw new SysError({ call: 'close', target: 'odd', errno: 104 });
  });
  expect(report.ended).toBe('it does not agree on version 0.2: it closed the connection');
}, 60_000);

test('a server that ends with its first client is told so, and no rule passes', async () => {
  using host = hostCard();
  using server = new InlineServer(() => host.open());
  let isFirst = true;
  const connect = () => {
    if (!isFirst) throw new SysError({ call: 'connect', target: 'odd', errno: 111 });
    isFirst = false;
    return server.connect();
  };
  const report = await checkVfioUserServer(connect);
  expect(report.ended).toBe('when its first client has gone, it cannot be reached: ECONNREFUSED');
  expect(verdicts(report)).toEqual(new Set(['not applicable']));
}, 60_000);

test('the rule that ends a server fails, and those after it are not tried', async () => {
  using host = hostCard();
  let isDead = false;
  using server = new InlineServer(() => host.open(), {
    command(message) {
      if (message.command !== 0x7fff) return undefined;
      isDead = true;
      return 'hang up';
    },
  });
  const connect = () => {
    if (isDead) throw new SysError({ call: 'connect', target: 'odd', errno: 111 });
    return server.connect();
  };
  const only = ['header-command', 'error-is-a-header', 'device-info'];
  const { results, ended } = await checkVfioUserServer(connect, { only });
  expect(results.map(({ verdict }) => verdict)).toEqual(['passed', 'failed', 'not applicable']);
  expect(ended).toBe('after error-is-a-header, it cannot be reached: ECONNREFUSED');
}, 60_000);

test('a rule that does not exist, and a socket where nobody listens, are errors', async () => {
  await expect(checkVfioUserServer('/nowhere', { only: ['no-rule'] })).rejects.toThrow(/there is no rule/);
  await expect(checkVfioUserServer('/nowhere')).rejects.toThrow(/ENOENT\n.*start its server first/);
});

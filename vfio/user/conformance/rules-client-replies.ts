/** Rules of replies that are wrong, late, or never there, for clients. */
import { errno } from '../../../sys/errno.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import {
  commandName,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  TYPE_COMMAND,
  TYPE_REPLY,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_READ,
  VFIO_USER_REGION_READ,
  VFIO_USER_VERSION,
} from '../protocol.js';
import type { Said } from './client-play.js';
import { type ClientRule, dmaRead, ending, ignores, survives, twisting } from './client-rule.js';
import { isOpenElsewhere } from './other-end.js';
import { failed, inapplicable, passed } from './report.js';
import { isAnswer } from './wire.js';

const INFO = VFIO_USER_DEVICE_GET_INFO;
const NOTHING = new Uint8Array(0);

/** GET_INFO is answered otherwise. */
const odd = (
  name: string,
  section: string,
  sent: string,
  twist: (reply: Said) => readonly Partial<Said>[],
): ClientRule => survives({ name, section, sent }, { twist: twisting(INFO, twist) });
const notThat = (
  name: string,
  section: string,
  sent: string,
  twist: (reply: Said) => readonly Partial<Said>[],
) => ignores({ name, section, sent }, INFO, twist);

const refusing = (name: string, command: number): ClientRule =>
  survives(
    {
      name: `error-${name}`,
      section: 'Header',
      sent: `error EINVAL to ${commandName(command)}`,
    },
    {
      twist: twisting(command, () => [
        { flags: TYPE_REPLY | FLAG_ERROR, errno: errno.EINVAL, payload: NOTHING, fds: [] },
      ]),
    },
  );

/** The reply, whose bytes come one after the other: a stream has no borders. */
const inPieces = (
  name: string,
  sent: string,
  how: (reply: Said) => readonly Partial<Said>[],
): ClientRule => ({
  name,
  section: 'Socket',
  sent,
  expected: 'further commands, as a stream has no borders',
  options: { twist: twisting(INFO, how) },
  async play(play) {
    await play.settle();
    if (!play.hasTwisted) return inapplicable('it does not send the command');
    if (play.end?.kind === 'garbage') return failed(play.describe(play.end));
    return play.next === undefined ? failed('no further command') : ending(play);
  },
});

/** A reply with descriptors that nobody asked for. */
const stray = (name: string, count: number): ClientRule => ({
  name,
  section: 'Security Considerations',
  sent: `a reply to VFIO_USER_DEVICE_GET_INFO with ${count} descriptor${count === 1 ? '' : 's'}`,
  expected: 'the descriptors are closed; it goes on, or ends the connection',
  async play(play) {
    using scope = new Scope();
    const [near, far] = unixSocketPair('stray');
    scope.own(near);
    scope.own(far);
    const held = await play.hold(INFO);
    if (held === undefined) return inapplicable('it does not send the command');
    await play.send({ ...held, fds: new Array<number>(count).fill(far.number) });
    far[Symbol.dispose]();
    await play.settle();
    if (await isOpenElsewhere(near, play)) return failed('it keeps them open');
    return ending(play, 'they are closed; ');
  },
});

export const CLIENT_REPLY_RULES: readonly ClientRule[] = [
  notThat('reply-wrong-id', 'Header', 'the reply to VFIO_USER_DEVICE_GET_INFO with another ID', ({ id }) => [
    { id: (id + 1) & 0xffff },
  ]),
  notThat(
    'reply-wrong-command',
    'Header',
    'the reply to VFIO_USER_DEVICE_GET_INFO as one to VFIO_USER_DEVICE_RESET',
    () => [{ command: VFIO_USER_DEVICE_RESET }],
  ),
  notThat(
    'reply-of-type-command',
    'Header',
    'the reply to VFIO_USER_DEVICE_GET_INFO with type Command',
    () => [{ flags: TYPE_COMMAND | FLAG_NO_REPLY }],
  ),
  notThat(
    'reply-without-payload',
    'Message sizes',
    'a reply to VFIO_USER_DEVICE_GET_INFO of no bytes',
    () => [{ payload: NOTHING }],
  ),
  notThat(
    'reply-too-short',
    'Message sizes',
    'a reply to VFIO_USER_DEVICE_GET_INFO of 8 of its 16 bytes',
    ({ payload }) => [{ payload: payload.slice(0, 8) }],
  ),
  odd(
    'reply-too-long',
    'Message sizes',
    'a reply to VFIO_USER_DEVICE_GET_INFO of 64 bytes',
    ({ payload }) => [{ payload: Uint8Array.from([...payload, ...new Uint8Array(48)]) }],
  ),
  odd('reply-unknown-flags', 'Header', 'a reply with bits of its flags that are not defined', () => [
    { flags: TYPE_REPLY | 0xffff_ff00 },
  ]),
  odd('reply-size-too-small', 'Header', 'a reply whose header gives it 8 bytes', () => [{ size: 8 }]),
  odd('reply-size-huge', 'Security Considerations', 'a reply whose header gives it 4 GiB - 1', () => [
    { size: 0xffff_ffff },
  ]),
  odd('reply-twice', 'Header', 'the reply to VFIO_USER_DEVICE_GET_INFO twice', () => [{}, {}]),
  odd('error-without-errno', 'Header', 'a reply with the Error bit and errno 0', () => [
    { flags: TYPE_REPLY | FLAG_ERROR, errno: 0, payload: NOTHING },
  ]),
  odd('error-unknown', 'Header', 'a reply with the Error bit and errno 0xffffffff', () => [
    { flags: TYPE_REPLY | FLAG_ERROR, errno: 0xffff_ffff, payload: NOTHING },
  ]),
  odd('error-with-payload', 'Header', 'a reply with the Error bit and a payload', () => [
    { flags: TYPE_REPLY | FLAG_ERROR, errno: errno.EIO },
  ]),
  refusing('device-info', INFO),
  refusing('region-info', VFIO_USER_DEVICE_GET_REGION_INFO),
  refusing('irq-info', VFIO_USER_DEVICE_GET_IRQ_INFO),
  refusing('region-read', VFIO_USER_REGION_READ),
  refusing('set-irqs', VFIO_USER_DEVICE_SET_IRQS),
  refusing('dma-map', VFIO_USER_DMA_MAP),
  refusing('reset', VFIO_USER_DEVICE_RESET),
  inPieces('reply-in-halves', 'a reply whose header comes in two halves, 30 ms apart', () => [
    { bytes: 32, pieces: 4 },
  ]),
  inPieces('reply-in-pieces', 'a reply byte by byte, 30 ms apart', () => [{ pieces: 32 }]),
  {
    name: 'reply-never',
    section: 'Client Disconnection',
    sent: 'no reply to VFIO_USER_DEVICE_GET_INFO',
    expected: 'no further command; it ends when it should',
    options: { twist: twisting(INFO, () => []) },
    async play(play) {
      await play.settle();
      if (!play.hasTwisted) return inapplicable('it does not send the command');
      if (play.next !== undefined) return failed(`it goes on with ${play.next}`);
      const got = play.end === undefined ? 'it waits' : 'the end of the connection';
      const problem = await play.leave();
      return problem === undefined ? passed(got) : failed(`${got}; then ${problem}`);
    },
  },
  odd(
    'disconnect-instead-of-reply',
    'Server Disconnection',
    'the end of the connection in place of a reply',
    () => [{ bytes: 0, isLast: true }],
  ),
  odd('disconnect-in-a-header', 'Server Disconnection', 'half of the header of a reply, and the end', () => [
    { bytes: 8, isLast: true },
  ]),
  odd(
    'disconnect-in-a-payload',
    'Server Disconnection',
    'half of the payload of a reply, and the end',
    () => [{ bytes: 24, isLast: true }],
  ),
  survives(
    {
      name: 'disconnect-at-once',
      section: 'Server Disconnection',
      sent: 'the end of the connection at once',
    },
    { twist: twisting(VFIO_USER_VERSION, () => [{ bytes: 0, isLast: true }]) },
  ),
  {
    name: 'disconnect-when-attached',
    section: 'Server Disconnection',
    sent: 'the end of the connection, when it has attached',
    expected: 'it ends when it should',
    async play(play) {
      await play.settle();
      await play.send({ command: VFIO_USER_DMA_READ, bytes: 0, isLast: true });
      return ending(play);
    },
  },
  stray('stray-descriptor-released', 1),
  stray('too-many-descriptors-released', 100),
  {
    name: 'request-before-reply',
    section: 'Command Concurrency',
    sent: 'VFIO_USER_DMA_READ before the reply to VFIO_USER_DEVICE_GET_INFO',
    expected: 'an answer to it, before the reply comes; and further commands behind that',
    async play(play) {
      const held = await play.hold(INFO);
      if (held === undefined) return inapplicable('it does not send the command');
      const heard = await play.ask(dmaRead(0xf_0000_0000_0000n, 64));
      if (!isAnswer(heard)) return failed(play.describe(heard));
      await play.send(held);
      await play.settle();
      if (play.next === undefined) return failed('an answer, but no further command');
      return ending(play, `${play.describe(heard)}; `);
    },
  },
  {
    name: 'reply-behind-a-request',
    section: 'Command Concurrency',
    sent: 'VFIO_USER_DMA_READ and the reply to VFIO_USER_DEVICE_GET_INFO in one piece',
    expected: 'an answer to the former, and further commands',
    async play(play) {
      const held = await play.hold(INFO);
      if (held === undefined) return inapplicable('it does not send the command');
      await play.sendJoined([dmaRead(0xf_0000_0000_0000n, 64), held]);
      const heard = await play.hear();
      if (!isAnswer(heard)) return failed(play.describe(heard));
      await play.settle();
      if (play.next === undefined) return failed('an answer, but no further command');
      return ending(play, `${play.describe(heard)}; `);
    },
  },
];

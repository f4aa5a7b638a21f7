/** Rules of messages as such: headers, sizes, halves, order, descriptors that nobody asked for. */
import { readSync } from 'node:fs';
import { isReadable } from '../../../sys/eventfd.js';
import { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { encodeCommand, encodeMessage } from '../message.js';
import {
  FLAG_ERROR,
  FLAG_NO_REPLY,
  HEADER_BYTES,
  TYPE_MASK,
  TYPE_REPLY,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DMA_READ,
} from '../protocol.js';
import { access, question, regionQuestion } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import { type Play, refuses, type ServerRule } from './server-rule.js';
import { type Heard, isAnswer, isError, isSuccess, Pauses, type Reply } from './wire.js';

const GET_INFO = VFIO_USER_DEVICE_GET_INFO;
const UNKNOWN = 0x7fff;
/** A command that has been removed from the protocol. */
const DIRTY_PAGES = 14;
const PIPELINED = 64;
const HALF_MS = 30;
/** Most descriptors that the kernel passes with a message. */
const KERNEL_FDS = 253;

const info = (id: number, flags = 0): Uint8Array => encodeCommand(id, GET_INFO, question(16), flags);
const unknown = (id: number, flags = 0): Uint8Array => encodeCommand(id, UNKNOWN, question(16), flags);

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Sends a message in pieces that begin at these offsets. */
async function inPieces({ wire }: Play, message: Uint8Array, cuts: readonly number[]): Promise<Heard> {
  const ends = [...cuts, message.length];
  for (const [i, end] of ends.entries()) {
    if (i > 0) await pause(HALF_MS);
    await wire.send(message.subarray(ends[i - 1] ?? 0, end));
  }
  return wire.hear();
}

const succeeds = (play: Play, heard: Heard): Outcome =>
  (isSuccess(heard) ? passed : failed)(play.describe(heard));

const pieces = (name: string, sent: string, cuts: readonly number[]): ServerRule => ({
  name,
  section: 'Socket',
  sent,
  expected: 'a reply, as a stream has no borders',
  play: async (play) => succeeds(play, await inPieces(play, info(1), cuts)),
});

/** Waits until nobody has the other end of a connection any more. */
async function isReleased(near: Fd, patienceMs: number): Promise<boolean> {
  const deadline = performance.now() + patienceMs;
  const pauses = new Pauses();
  do {
    if (isReadable(near.number) && readSync(near.number, new Uint8Array(64)) === 0) return true;
    await pauses.next();
  } while (performance.now() < deadline);
  return false;
}

/** The descriptors that a message has and no rule asks for must not stay with the server. */
const strayDescriptor = (
  name: string,
  sent: string,
  send: (play: Play, fd: number) => Promise<Heard>,
): ServerRule => ({
  name,
  section: 'Security Considerations',
  sent,
  expected: 'a reply, an error, or the end of the connection; the descriptor is closed',
  async play(play) {
    using scope = new Scope();
    const [near, far] = unixSocketPair('stray descriptor');
    scope.own(near);
    scope.own(far);
    const heard = await send(play, far.number);
    far[Symbol.dispose]();
    const got = play.describe(heard);
    if (heard.kind === 'silence' || heard.kind === 'garbage') return failed(got);
    if (!(await isReleased(near, play.patienceMs))) return failed(`${got}, and the descriptor stays open`);
    const problem = await play.notServing(heard);
    return problem === undefined ? passed(got) : failed(`${got}, and to the next message: ${problem}`);
  },
});

/** What a reply to GET_INFO has in its header. */
const header = (
  name: string,
  sent: string,
  expected: string,
  send: (play: Play) => Promise<Heard>,
  check: (reply: Reply) => string | undefined,
): ServerRule => ({
  name,
  section: 'Header',
  sent,
  expected,
  async play(play) {
    const heard = await send(play);
    if (!isAnswer(heard)) return failed(play.describe(heard));
    const problem = check(heard.reply);
    return problem === undefined ? passed(play.describe(heard)) : failed(problem);
  },
});

const sendInfo =
  (id: number) =>
  async ({ wire }: Play): Promise<Heard> => {
    await wire.send(info(id));
    return wire.hear();
  };

const echoesIds: ServerRule = {
  name: 'header-message-id',
  section: 'Header',
  sent: 'commands with the IDs 0, 1, 0xffff, 7 and 7 again, one after the other',
  expected: 'replies with these IDs',
  async play(play) {
    const ids = [0, 1, 0xffff, 7, 7];
    for (const id of ids) {
      const heard = await sendInfo(id)(play);
      if (!isAnswer(heard)) return failed(`to ID ${id}: ${play.describe(heard)}`);
      if (heard.reply.id !== id) return failed(`ID ${heard.reply.id} in the reply to ${id}`);
    }
    return passed(`these IDs`);
  },
};

/** Commands of three kinds at once; their replies must come in their order. */
const pipelined: ServerRule = {
  name: 'pipelined-order',
  section: 'Command Concurrency',
  sent: `${PIPELINED} commands of three kinds, without waiting for replies`,
  expected: 'as many replies, in the order of the commands',
  async play(play) {
    const kinds = [
      [GET_INFO, question(16)],
      [VFIO_USER_DEVICE_GET_IRQ_INFO, question(16)],
      [VFIO_USER_DEVICE_GET_REGION_INFO, regionQuestion(32, 0)],
    ] as const;
    const commands = Array.from(
      { length: PIPELINED },
      (_, i) => kinds[i % kinds.length] as (typeof kinds)[0],
    );
    const all = commands.map(([command, payload], id) => encodeCommand(id, command, payload));
    await play.wire.send(Buffer.concat(all));
    for (const [i, [command]] of commands.entries()) {
      const heard = await play.wire.hear();
      if (!isAnswer(heard)) return failed(`after ${i} replies: ${play.describe(heard)}`);
      if (heard.reply.command !== command)
        return failed(`reply ${i} is to command ${heard.reply.command}, not to ${command}`);
    }
    return passed(`${PIPELINED} replies in order`);
  },
};

/** The next reply is to GET_INFO, sent last: none came to what was sent before. */
const unanswered = (name: string, sent: string, send: (play: Play) => Promise<void>): ServerRule => ({
  name,
  section: 'Header',
  sent: `${sent}, with No_reply, and then VFIO_USER_DEVICE_GET_INFO`,
  expected: 'one reply, which is to the latter',
  async play(play) {
    await send(play);
    await play.wire.send(info(9));
    const heard = await play.wire.hear();
    if (!isSuccess(heard) || heard.reply.command !== GET_INFO)
      return failed(`first: ${play.describe(heard)}`);
    return passed(play.describe(heard));
  },
});

/** A client that leaves at a bad moment; the next one must find a server. */
const leaves = (name: string, sent: string, send: (play: Play) => Promise<void>): ServerRule => ({
  name,
  section: 'Client Disconnection',
  sent: `${sent}; then the client disconnects`,
  expected: 'the next client is served',
  async play(play) {
    await send(play);
    const problem = await play.notServing({ kind: 'closed' });
    return problem === undefined ? passed('it is') : failed(problem);
  },
});

export const MESSAGE_RULES: readonly ServerRule[] = [
  echoesIds,
  header(
    'header-reply-flag',
    'VFIO_USER_DEVICE_GET_INFO',
    'a message whose type is Reply',
    sendInfo(3),
    ({ flags }) => ((flags & TYPE_MASK) === TYPE_REPLY ? undefined : `flags 0x${flags.toString(16)}`),
  ),
  header(
    'header-no-error-flag',
    'VFIO_USER_DEVICE_GET_INFO',
    'a reply without the Error bit',
    sendInfo(3),
    ({ flags, errno: code }) => ((flags & FLAG_ERROR) === 0 ? undefined : `the Error bit, errno ${code}`),
  ),
  header(
    'header-command',
    'VFIO_USER_DEVICE_GET_INFO',
    'a reply with the command of the request',
    sendInfo(3),
    ({ command }) => (command === GET_INFO ? undefined : `command ${command}`),
  ),
  {
    name: 'error-is-a-header',
    section: 'Header',
    sent: `command ${UNKNOWN}, which does not exist`,
    expected: 'a reply with the Error bit that is a header and nothing else, or the end of the connection',
    async play(play) {
      await play.wire.send(unknown(4));
      const heard = await play.wire.hear();
      if (heard.kind === 'closed') return passed(play.describe(heard));
      if (!isError(heard)) return failed(play.describe(heard));
      const { size } = heard.reply;
      return size === HEADER_BYTES
        ? passed(play.describe(heard))
        : failed(`an error of ${size} bytes: ${size - HEADER_BYTES} more than the header`);
    },
  },
  unanswered('no-reply-success', 'VFIO_USER_DEVICE_GET_IRQ_INFO', ({ wire }) =>
    wire.send(encodeCommand(8, VFIO_USER_DEVICE_GET_IRQ_INFO, question(16), FLAG_NO_REPLY)),
  ),
  unanswered('no-reply-error', `command ${UNKNOWN}, which does not exist`, ({ wire }) =>
    wire.send(unknown(8, FLAG_NO_REPLY)),
  ),
  refuses({
    name: 'command-unknown',
    section: 'Commands',
    sent: `command ${UNKNOWN}, which does not exist`,
    ask: { command: UNKNOWN, payload: question(16) },
  }),
  refuses({
    name: 'command-0',
    section: 'Commands',
    sent: 'command 0, which does not exist',
    ask: { command: 0, payload: question(16) },
  }),
  refuses({
    name: 'command-removed',
    section: 'Commands',
    sent: `command ${DIRTY_PAGES}, which the protocol no longer has`,
    ask: { command: DIRTY_PAGES, payload: question(16) },
  }),
  refuses({
    name: 'command-of-servers',
    section: 'Commands',
    sent: 'VFIO_USER_DMA_READ, which servers send',
    ask: { command: VFIO_USER_DMA_READ, payload: access(0, 0, 4) },
  }),
  refuses({
    name: 'message-size-too-small',
    section: 'Header',
    sent: 'a header that gives the message 8 bytes',
    ask: () => {
      const raw = encodeMessage({ id: 5, command: GET_INFO, flags: 0 });
      new DataView(raw.buffer).setUint32(4, 8, true);
      return { command: GET_INFO, raw };
    },
  }),
  refuses({
    name: 'message-size-huge',
    section: 'Security Considerations',
    sent: 'a header that gives the message 4 GiB - 1',
    ask: () => {
      const raw = encodeMessage({ id: 5, command: GET_INFO, flags: 0 }, question(16));
      new DataView(raw.buffer).setUint32(4, 0xffff_ffff, true);
      return { command: GET_INFO, raw };
    },
  }),
  {
    name: 'reply-unasked',
    section: 'Security Considerations',
    sent: 'a reply that nobody asked for, and then VFIO_USER_DEVICE_GET_INFO',
    expected: 'an answer to the latter, or the end of the connection; then it goes on serving',
    async play(play) {
      await play.wire.send(encodeMessage({ id: 6, command: VFIO_USER_DMA_READ, flags: TYPE_REPLY }));
      const heard = await sendInfo(7)(play);
      if (heard.kind === 'silence' || heard.kind === 'garbage') return failed(play.describe(heard));
      const problem = await play.notServing(heard);
      return problem === undefined ? passed(play.describe(heard)) : failed(problem);
    },
  },
  pieces('header-in-halves', `a message whose header comes in two halves, ${HALF_MS} ms apart`, [8]),
  pieces('payload-late', `a message whose payload comes ${HALF_MS} ms after its header`, [HEADER_BYTES]),
  pieces('message-in-pieces', `a message in 5 pieces, ${HALF_MS} ms apart`, [1, 5, HEADER_BYTES + 1, 24]),
  {
    name: 'messages-joined',
    section: 'Socket',
    sent: 'a message and a half, and the other half',
    expected: 'two replies',
    async play(play) {
      const both = Buffer.concat([info(1), info(2)]);
      const first = await inPieces(play, both, [48]);
      if (!isSuccess(first)) return failed(`first: ${play.describe(first)}`);
      return succeeds(play, await play.wire.hear());
    },
  },
  pipelined,
  strayDescriptor(
    'stray-descriptor-released',
    'VFIO_USER_DEVICE_GET_INFO with a descriptor',
    async ({ wire }, fd) => {
      await wire.send(info(1), [fd]);
      return wire.hear();
    },
  ),
  strayDescriptor(
    'stray-descriptor-of-error-released',
    `command ${UNKNOWN}, which does not exist, with a descriptor`,
    async ({ wire }, fd) => {
      await wire.send(unknown(1), [fd]);
      return wire.hear();
    },
  ),
  {
    name: 'too-many-descriptors',
    section: 'Security Considerations',
    sent: 'a message with more descriptors than its max_msg_fds',
    expected: 'a reply, an error, or the end of the connection; then it goes on serving',
    async play(play) {
      const { maxMsgFds } = play.facts;
      if (maxMsgFds >= KERNEL_FDS) return inapplicable(`it takes ${maxMsgFds} of them`);
      using fd = Fd.eventfd('too many');
      await play.wire.send(info(1), new Array<number>(maxMsgFds + 1).fill(fd.number));
      const heard = await play.wire.hear();
      if (heard.kind === 'silence' || heard.kind === 'garbage') return failed(play.describe(heard));
      const problem = await play.notServing(heard);
      return problem === undefined ? passed(play.describe(heard)) : failed(problem);
    },
  },
  leaves('disconnect-in-a-header', 'half of a header', ({ wire }) => wire.send(info(1).subarray(0, 8))),
  leaves('disconnect-in-a-payload', 'a header without its payload', ({ wire }) =>
    wire.send(info(1).subarray(0, HEADER_BYTES)),
  ),
  leaves('disconnect-before-replies', `${PIPELINED} commands`, ({ wire }) =>
    wire.send(Buffer.concat(Array.from({ length: PIPELINED }, (_, id) => info(id)))),
  ),
  {
    ...leaves('disconnect-at-once', 'nothing', async () => {}),
    isFresh: true,
  },
];

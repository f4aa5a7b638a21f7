/** Rules of a server's requests, for clients: VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE, and what no server may send. */
import { readSync } from 'node:fs';
import { errno } from '../../../sys/errno.js';
import { signalEventfd } from '../../../sys/eventfd.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import {
  DEFAULT_MAX_DATA_XFER_SIZE,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  TYPE_REPLY,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_WRITE,
  VFIO_USER_F_DMA_REGION_READ,
  VFIO_USER_F_DMA_REGION_WRITE,
  VFIO_USER_REGION_READ,
  VFIO_USER_VERSION,
} from '../protocol.js';
import type { ClientPlay, PlayOptions } from './client-play.js';
import {
  answersTo,
  type ClientRule,
  dmaRead,
  ending,
  mapOf,
  refusesRequest,
  requests,
  survivesRequest,
} from './client-rule.js';
import { isOpenElsewhere } from './other-end.js';
import { access, dmaAccess, PROPOSAL, question, version, words } from './payloads.js';
import type { PlayedMap } from './played-device.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import { type Heard, isAnswer, isError, isSuccess } from './wire.js';

const READ = VFIO_USER_F_DMA_REGION_READ;
const WRITE = VFIO_USER_F_DMA_REGION_WRITE;
const NO_MAP = 'it has mapped no memory';
const COUNT = 64;
const READS = 'VFIO_USER_DMA_READ';
const WRITES = 'VFIO_USER_DMA_WRITE';
const NOWHERE = 0xf_0000_0000_0000n;

/** What is wrong with a reply to an access. @param bytes of data behind the 16 of its head */
function replyProblem(
  play: ClientPlay,
  heard: Heard,
  at: bigint,
  count: number,
  bytes: number,
): string | undefined {
  if (!isSuccess(heard)) return play.describe(heard);
  const { payload } = heard.reply;
  if (payload.length !== 16 + bytes) return `a payload of ${payload.length} bytes`;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const [address, counted] = [view.getBigUint64(0, true), view.getBigUint64(8, true)];
  if (address === at && counted === BigInt(count)) return undefined;
  return `${counted} bytes at 0x${address.toString(16)}`;
}

const dataOf = (heard: Heard): Uint8Array | undefined =>
  isSuccess(heard) ? heard.reply.payload.subarray(16) : undefined;

/** Of an access that may be refused: a device whose bus mastering is off has no access. */
const denied = (play: ClientPlay, heard: Heard): Outcome | undefined =>
  isError(heard) ? inapplicable(`it refuses all DMA by message: ${play.describe(heard)}`) : undefined;

const reading = (
  name: string,
  sent: string,
  place: (map: PlayedMap) => { readonly at: bigint; readonly count: number },
  options: PlayOptions = {},
): ClientRule =>
  requests(
    {
      name,
      section: READS,
      sent,
      expected: 'a reply with the address, the count and the bytes that are there',
    },
    async (play) => {
      const map = mapOf(play, READ);
      if (map === undefined) return inapplicable(NO_MAP);
      const { at, count } = place(map);
      const heard = await play.ask(dmaRead(at, count));
      const refused = denied(play, heard);
      if (refused !== undefined) return refused;
      const problem = replyProblem(play, heard, at, count, count);
      if (problem !== undefined) return failed(problem);
      const there = bytesOf(map, at, count);
      if (there !== undefined && Buffer.compare(there, dataOf(heard) as Uint8Array) !== 0)
        return failed('other bytes than the file of the map has');
      return ending(play, `a reply${there === undefined ? '' : ', with the bytes of the file'}; `);
    },
    options,
  );

/** What the file of a map has. */
function bytesOf({ fd, offset, iova }: PlayedMap, at: bigint, count: number): Uint8Array | undefined {
  if (fd === undefined) return undefined;
  const data = new Uint8Array(count);
  readSync(fd.number, data, 0, count, offset + (at - iova));
  return data;
}

/** Writes the last bytes of a map, reads them, and restores them. */
async function writing(play: ClientPlay): Promise<Outcome> {
  const map = mapOf(play, READ | WRITE);
  if (map === undefined) return inapplicable(NO_MAP);
  const at = map.iova + map.size - BigInt(COUNT);
  const before = await play.ask(dmaRead(at, COUNT));
  const refused = denied(play, before);
  if (refused !== undefined) return refused;
  const old = dataOf(before);
  if (old?.length !== COUNT) return failed(`to ${READS}, ${play.describe(before)}`);
  const other = old.map((byte) => byte ^ 0x5a);
  const write = (data: Uint8Array) =>
    play.ask({ command: VFIO_USER_DMA_WRITE, payload: dmaAccess(at, COUNT, data) });
  const problem = replyProblem(play, await write(other), at, COUNT, 0);
  const after = await play.ask(dmaRead(at, COUNT));
  const inFile = bytesOf(map, at, COUNT);
  await write(old);
  if (problem !== undefined) return failed(problem);
  if (Buffer.compare(dataOf(after) ?? NOTHING, other) !== 0)
    return failed('a reply, but the bytes are not there');
  if (inFile !== undefined && Buffer.compare(inFile, other) !== 0)
    return failed('a reply, but the bytes are not in the file of the map');
  return ending(play, 'a reply, and the bytes; ');
}
const NOTHING = new Uint8Array(0);

/** A request without a place in any map. */
const outside = (
  name: string,
  sent: string,
  place: (play: ClientPlay) => readonly [bigint, bigint] | string,
): ClientRule =>
  refusesRequest({ name, section: READS, sent }, (play) => {
    const found = place(play);
    return typeof found === 'string' ? found : dmaRead(...found);
  });

/** The end of a map behind which nothing is mapped. */
function edge(play: ClientPlay): bigint | undefined {
  const ends = [...play.device.maps.values()].map(({ iova, size }) => iova + size);
  return ends.find((end) => !play.device.maps.has(end));
}

/** Memory with this right and no other. */
const wrongWay = (name: string, rights: number, sent: string, command: number): ClientRule =>
  refusesRequest({ name, section: command === VFIO_USER_DMA_READ ? READS : WRITES, sent }, (play) => {
    const map = mapOf(play, rights, true);
    if (map === undefined) return 'it has no such map';
    if (command === VFIO_USER_DMA_READ) return dmaRead(map.iova, COUNT);
    const data = bytesOf(map, map.iova, COUNT) ?? new Uint8Array(COUNT);
    return { command, payload: dmaAccess(map.iova, COUNT, data) };
  });

const noRequest = (name: string, sent: string, command: number, payload: Uint8Array): ClientRule =>
  refusesRequest({ name, section: 'Commands', sent }, { command, payload });

export const CLIENT_REQUEST_RULES: readonly ClientRule[] = [
  reading('dma-read', 'VFIO_USER_DMA_READ of the first 64 bytes of a map', ({ iova }) => ({
    at: iova,
    count: COUNT,
  })),
  reading('dma-read-at-the-end', 'VFIO_USER_DMA_READ of the last byte of a map', ({ iova, size }) => ({
    at: iova + size - 1n,
    count: 1,
  })),
  reading('dma-read-a-page', 'VFIO_USER_DMA_READ of 4096 bytes', ({ iova }) => ({ at: iova, count: 4096 })),
  requests(
    {
      name: 'dma-write',
      section: WRITES,
      sent: 'VFIO_USER_DMA_WRITE of the last 64 bytes of a map',
      expected: 'a reply with the address and the count; the bytes are there',
    },
    writing,
  ),
  outside('dma-read-outside', 'VFIO_USER_DMA_READ of memory that is not mapped', () => [NOWHERE, 64n]),
  outside('dma-read-across-the-end', 'VFIO_USER_DMA_READ that begins in a map, and ends outside', (play) => {
    const end = edge(play);
    return end === undefined ? NO_MAP : [end - 32n, 64n];
  }),
  outside('dma-read-wraps', 'VFIO_USER_DMA_READ of 64 bytes at 2^64 - 8', () => [(1n << 64n) - 8n, 64n]),
  outside('dma-read-huge', 'VFIO_USER_DMA_READ of 2^40 bytes', (play) => [
    mapOf(play, READ)?.iova ?? 0n,
    1n << 40n,
  ]),
  outside('dma-read-most', 'VFIO_USER_DMA_READ of 2^64 - 1 bytes', (play) => [
    mapOf(play, READ)?.iova ?? 0n,
    (1n << 64n) - 1n,
  ]),
  refusesRequest(
    {
      name: 'dma-read-above-max-data-xfer-size',
      section: 'VFIO_USER_VERSION',
      sent: 'VFIO_USER_DMA_READ of one byte more than its max_data_xfer_size',
    },
    (play) => {
      const most = play.proposal?.capabilities?.max_data_xfer_size ?? DEFAULT_MAX_DATA_XFER_SIZE;
      return dmaRead(mapOf(play, READ)?.iova ?? 0n, typeof most === 'number' ? BigInt(most) + 1n : 1n << 40n);
    },
  ),
  refusesRequest(
    { name: 'dma-write-outside', section: WRITES, sent: 'VFIO_USER_DMA_WRITE to memory that is not mapped' },
    { command: VFIO_USER_DMA_WRITE, payload: dmaAccess(NOWHERE, COUNT, new Uint8Array(COUNT)) },
  ),
  wrongWay('dma-write-read-only', READ, 'VFIO_USER_DMA_WRITE to a map for reading only', VFIO_USER_DMA_WRITE),
  wrongWay('dma-read-write-only', WRITE, 'VFIO_USER_DMA_READ of a map for writing only', VFIO_USER_DMA_READ),
  refusesRequest(
    { name: 'dma-read-too-short', section: READS, sent: 'a payload of 8 bytes' },
    { command: VFIO_USER_DMA_READ, payload: new Uint8Array(8) },
  ),
  refusesRequest(
    { name: 'dma-write-data-missing', section: WRITES, sent: 'VFIO_USER_DMA_WRITE of 64 bytes with 8' },
    (play) => ({
      command: VFIO_USER_DMA_WRITE,
      payload: dmaAccess(mapOf(play, WRITE)?.iova ?? 0n, COUNT, new Uint8Array(8)),
    }),
  ),
  survivesRequest(
    { name: 'dma-read-nothing', section: READS, sent: 'VFIO_USER_DMA_READ of 0 bytes' },
    (play) => play.send(dmaRead(mapOf(play, READ)?.iova ?? 0n, 0)),
  ),
  requests(
    {
      name: 'request-ids',
      section: 'Header',
      sent: 'requests with the IDs 0, 1, 0xffff, 7 and 7 again, one after the other',
      expected: 'answers with these IDs and the command of the request',
    },
    async (play) => {
      for (const id of [0, 1, 0xffff, 7, 7]) {
        const heard = await play.ask({ ...dmaRead(NOWHERE, COUNT), id });
        if (!answersTo(heard, VFIO_USER_DMA_READ)) return failed(play.describe(heard));
        if (isAnswer(heard) && heard.reply.id !== id) return failed(`the ID ${heard.reply.id} for ${id}`);
      }
      return ending(play, 'these; ');
    },
  ),
  requests(
    {
      name: 'requests-pipelined',
      section: 'Command Concurrency',
      sent: '64 requests, without waiting for answers',
      expected: 'as many answers, in the order of the requests',
    },
    async (play) => {
      for (let id = 1; id <= 64; id++) await play.send({ ...dmaRead(NOWHERE, COUNT), id });
      for (let id = 1; id <= 64; id++) {
        const heard = await play.hear();
        if (!isAnswer(heard)) return failed(`after ${id - 1} of them, ${play.describe(heard)}`);
        if (heard.reply.id !== id) return failed(`number ${id} has the ID ${heard.reply.id}`);
      }
      return ending(play, 'these; ');
    },
  ),
  requests(
    {
      name: 'request-no-reply',
      section: 'Header',
      sent: 'VFIO_USER_DMA_READ with No_reply, and then without',
      expected: 'one answer, which is to the latter',
    },
    async (play) => {
      await play.send({ ...dmaRead(NOWHERE, COUNT), flags: FLAG_NO_REPLY, id: 21 });
      const heard = await play.ask({ ...dmaRead(NOWHERE, COUNT), id: 22 });
      if (!isAnswer(heard)) return failed(play.describe(heard));
      return heard.reply.id === 22
        ? ending(play, 'that; ')
        : failed(`an answer with the ID ${heard.reply.id}`);
    },
  ),
  requests(
    {
      name: 'request-in-pieces',
      section: 'Socket',
      sent: 'a request in 5 pieces, 30 ms apart',
      expected: 'an answer, as a stream has no borders',
    },
    async (play) => {
      const heard = await play.ask({ ...dmaRead(NOWHERE, COUNT), pieces: 5 });
      return isAnswer(heard) ? ending(play, `${play.describe(heard)}; `) : failed(play.describe(heard));
    },
  ),
  noRequest('request-unknown', 'command 32767, which does not exist', 0x7fff, new Uint8Array(16)),
  noRequest('request-0', 'command 0, which does not exist', 0, NOTHING),
  noRequest('request-removed', 'command 14, which the protocol no longer has', 14, new Uint8Array(16)),
  noRequest('request-version', 'VFIO_USER_VERSION, which clients send', VFIO_USER_VERSION, version(PROPOSAL)),
  noRequest(
    'request-of-clients',
    'VFIO_USER_DEVICE_GET_INFO, which clients send',
    VFIO_USER_DEVICE_GET_INFO,
    question(16),
  ),
  noRequest(
    'request-region-read',
    'VFIO_USER_REGION_READ, which clients send',
    VFIO_USER_REGION_READ,
    access(7, 0, 4),
  ),
  noRequest(
    'request-dma-map',
    'VFIO_USER_DMA_MAP, which clients send',
    VFIO_USER_DMA_MAP,
    words(32, 3, 0, 0, 0, 16, 0x1000, 0),
  ),
  survivesRequest(
    { name: 'request-size-too-small', section: 'Header', sent: 'a header that gives the message 8 bytes' },
    (play) => play.send({ ...dmaRead(NOWHERE, COUNT), size: 8, bytes: 16 }),
  ),
  survivesRequest(
    {
      name: 'request-size-huge',
      section: 'Security Considerations',
      sent: 'a header that gives the message 4 GiB - 1',
    },
    (play) => play.send({ ...dmaRead(NOWHERE, COUNT), size: 0xffff_ffff, bytes: 16 }),
  ),
  survivesRequest({ name: 'request-type-unknown', section: 'Header', sent: 'a message of type 7' }, (play) =>
    play.send({ ...dmaRead(NOWHERE, COUNT), flags: 7 }),
  ),
  survivesRequest(
    { name: 'reply-unasked', section: 'Security Considerations', sent: 'a reply that nobody asked for' },
    (play) => play.send({ command: VFIO_USER_DEVICE_GET_INFO, flags: TYPE_REPLY, payload: question(16) }),
  ),
  survivesRequest(
    { name: 'error-unasked', section: 'Security Considerations', sent: 'an error that nobody asked for' },
    (play) =>
      play.send({ command: VFIO_USER_DEVICE_GET_INFO, flags: TYPE_REPLY | FLAG_ERROR, errno: errno.EIO }),
  ),
  requests(
    {
      name: 'request-descriptor-released',
      section: 'Security Considerations',
      sent: 'VFIO_USER_DMA_READ with a descriptor',
      expected: 'an answer, or the end of the connection; the descriptor is closed',
    },
    async (play) => {
      using scope = new Scope();
      const [near, far] = unixSocketPair('stray');
      scope.own(near);
      scope.own(far);
      const heard = await play.ask({ ...dmaRead(NOWHERE, COUNT), fds: [far.number] });
      far[Symbol.dispose]();
      if (heard.kind === 'silence' || heard.kind === 'garbage') return failed(play.describe(heard));
      // Some close it when the next message comes.
      const stuck = await play.stuck();
      if (stuck !== undefined) return failed(stuck);
      if (await isOpenElsewhere(near, play)) return failed('it keeps the descriptor open');
      return ending(play, `${play.describe(heard)}, and the descriptor is closed; `);
    },
  ),
  requests(
    {
      name: 'interrupts-signalled',
      section: 'VFIO_USER_DEVICE_SET_IRQS',
      sent: 'a signal of each eventfd that it has sent, three times',
      expected: 'it goes on',
    },
    async (play) => {
      const { eventfds } = play.device;
      if (eventfds.length === 0) return inapplicable('it sends no eventfds');
      for (let count = 0; count < 3; count++) for (const { number } of eventfds) signalEventfd(number);
      const stuck = await play.stuck();
      if (stuck !== undefined) return failed(stuck);
      return ending(play, `${eventfds.length} of them; `);
    },
  ),
  requests(
    {
      name: 'requests-many',
      section: 'Security Considerations',
      sent: '2000 requests, and no answer of the client’s is read until all are sent',
      expected: 'as many answers, or the end of the connection',
    },
    async (play) => {
      const payload = dmaAccess(NOWHERE, COUNT);
      await play.sendJoined(Array.from({ length: 2000 }, () => ({ command: VFIO_USER_DMA_READ, payload })));
      for (let count = 0; count < 2000; count++) {
        const heard = await play.hear();
        if (heard.kind === 'closed') break;
        if (!isAnswer(heard)) return failed(`after ${count} of them, ${play.describe(heard)}`);
      }
      return ending(play, play.end === undefined ? 'all answers; ' : '');
    },
  ),
  reading(
    'twin-dma-read',
    'VFIO_USER_DMA_READ on the twin socket',
    ({ iova }) => ({ at: iova, count: COUNT }),
    { offersTwin: true },
  ),
  refusesRequest(
    {
      name: 'twin-request-of-clients',
      section: 'VFIO_USER_VERSION',
      sent: 'VFIO_USER_DEVICE_GET_INFO on the twin socket',
    },
    { command: VFIO_USER_DEVICE_GET_INFO, payload: question(16) },
    { offersTwin: true },
  ),
  {
    name: 'detach',
    section: 'Client Disconnection',
    sent: 'the wish that it ends',
    expected: 'the end of the connection',
    async play(play) {
      await play.settle();
      if (play.end !== undefined) return failed(`before that, ${play.describe(play.end)}`);
      const problem = await play.leave();
      return problem === undefined ? passed('the end of the connection') : failed(problem);
    },
  },
];

/** Rules of VFIO_USER_DMA_MAP and VFIO_USER_DMA_UNMAP, with descriptors and without. */
import { ftruncateSync } from 'node:fs';
import { errno } from '../../../sys/errno.js';
import { Fd } from '../../../sys/fd.js';
import * as libc from '../../../sys/libc.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { HEADER_BYTES, VFIO_USER_DMA_MAP, VFIO_USER_DMA_UNMAP } from '../protocol.js';
import { dmaMap, dmaUnmap } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import { exchange, type Play, REFUSED, refused, refuses, type ServerRule } from './server-rule.js';
import { type Heard, isAnswer, isError, isSuccess, Pauses } from './wire.js';

const MAP = 'VFIO_USER_DMA_MAP';
const UNMAP = 'VFIO_USER_DMA_UNMAP';
const PAGE = 4096;
/** Away from where the addresses of a guest's memory are small. */
const IOVA = 0x10_0000_0000;
const BYTES = 4 * PAGE;
const MANY = 256;
const EEXIST = [errno.EEXIST];

const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const F_SEAL_WRITE = 8;

/** Memory that cannot shrink, and that this process does not map. */
function memory(): Fd {
  using scope = new Scope();
  const fd = scope.own(Fd.memfd('conformance', MFD_ALLOW_SEALING));
  ftruncateSync(fd.number, BYTES);
  libc.fcntl(fd.number, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  scope.move();
  return fd;
}

/** Whether nobody maps the memory for writing: the kernel takes this seal only then. */
async function isUnmapped(fd: Fd, waitMs: number): Promise<boolean> {
  const deadline = performance.now() + waitMs;
  const pauses = new Pauses();
  do {
    if (libc.fcntl(fd.number, F_ADD_SEALS, F_SEAL_WRITE) === 0) return true;
    await pauses.next();
  } while (performance.now() < deadline);
  return false;
}

const map = ({ wire }: Play, payload: Uint8Array, fds: readonly number[] = []): Promise<Heard> =>
  wire.ask(VFIO_USER_DMA_MAP, payload, fds);
const unmap = ({ wire }: Play, payload: Uint8Array): Promise<Heard> => wire.ask(VFIO_USER_DMA_UNMAP, payload);

type Row = Omit<ServerRule, 'play'>;

/** A rule that begins with a map without descriptor. */
const mapped = (row: Row, play: (play: Play) => Promise<Outcome>): ServerRule => ({
  ...row,
  async play(on) {
    const heard = await map(on, dmaMap(IOVA, BYTES));
    if (!isSuccess(heard)) return failed(`to the first map: ${on.describe(heard)}`);
    return play(on);
  },
});

/** A rule that begins with a map of a file; not applicable to a server that takes none. */
const mappedFile = (row: Row, play: (play: Play, file: Fd) => Promise<Outcome>): ServerRule => ({
  ...row,
  async play(on) {
    using file = memory();
    const heard = await map(on, dmaMap(IOVA, BYTES), [file.number]);
    if (isError(heard)) return inapplicable(`it takes no memory by descriptor: ${on.describe(heard)}`);
    if (!isSuccess(heard)) return failed(`to the map: ${on.describe(heard)}`);
    return await play(on, file);
  },
});

const wrongMap = (name: string, sent: string, payload: Uint8Array): ServerRule =>
  refuses({ name, section: MAP, sent, ask: { command: VFIO_USER_DMA_MAP, payload } });

/** A map whose descriptors are wrong. */
const wrongFile = (
  name: string,
  sent: string,
  payload: Uint8Array,
  open: (scope: Scope) => readonly Fd[],
): ServerRule => ({
  name,
  section: MAP,
  sent,
  expected: REFUSED,
  async play(play) {
    using scope = new Scope();
    const fds = open(scope).map(({ number }) => number);
    if (fds.length > play.facts.maxMsgFds)
      return inapplicable(`it takes ${play.facts.maxMsgFds} descriptors`);
    return await refused(play, await exchange(play, { command: VFIO_USER_DMA_MAP, payload, fds }));
  },
});

const refusedOver = async (play: Play, payload: Uint8Array): Promise<Outcome> =>
  refused(play, await map(play, payload), EEXIST);

const over = 'error EEXIST; then it goes on serving';

export const MEMORY_RULES: readonly ServerRule[] = [
  {
    name: 'dma-map',
    section: MAP,
    sent: 'a map without descriptor',
    expected: 'a reply without payload',
    async play(play) {
      const heard = await map(play, dmaMap(IOVA, BYTES));
      return (isSuccess(heard) && heard.reply.size === HEADER_BYTES ? passed : failed)(play.describe(heard));
    },
  },
  mappedFile(
    {
      name: 'dma-map-descriptor',
      section: MAP,
      sent: 'a map with the descriptor of memory, and the unmap of it',
      expected: 'replies to both',
    },
    async (play) => {
      const heard = await unmap(play, dmaUnmap(IOVA, BYTES));
      return (isSuccess(heard) ? passed : failed)(play.describe(heard));
    },
  ),
  mapped(
    { name: 'dma-map-over-same', section: MAP, sent: 'the same map twice', expected: over },
    async (play) => refusedOver(play, dmaMap(IOVA, BYTES)),
  ),
  mapped(
    { name: 'dma-map-over-part', section: MAP, sent: 'a map over the end of another one', expected: over },
    async (play) => refusedOver(play, dmaMap(IOVA + BYTES - PAGE, BYTES)),
  ),
  mapped(
    { name: 'dma-map-over-all', section: MAP, sent: 'a map around another one', expected: over },
    async (play) => refusedOver(play, dmaMap(IOVA - PAGE, BYTES + 2 * PAGE)),
  ),
  mapped(
    {
      name: 'dma-map-beside',
      section: MAP,
      sent: 'maps that end where another one begins, and begin where it ends',
      expected: 'replies',
    },
    async (play) => {
      for (const at of [IOVA - PAGE, IOVA + BYTES]) {
        const heard = await map(play, dmaMap(at, PAGE));
        if (!isSuccess(heard)) return failed(`at 0x${at.toString(16)}: ${play.describe(heard)}`);
      }
      return passed('replies');
    },
  ),
  wrongMap('dma-map-nothing', 'a map of 0 bytes', dmaMap(IOVA, 0)),
  wrongMap('dma-map-wraps', 'a map that ends behind 2^64', dmaMap(0xffff_ffff_ffff_f000n, 2 * PAGE)),
  wrongMap('dma-map-argsz-too-small', 'argsz 24', dmaMap(IOVA, BYTES, { argsz: 24 })),
  wrongMap('dma-map-too-short', 'a payload of 24 bytes', dmaMap(IOVA, BYTES).subarray(0, 24)),
  wrongFile('dma-map-two-descriptors', 'a map with two descriptors', dmaMap(IOVA, BYTES), (scope) => [
    scope.own(memory()),
    scope.own(memory()),
  ]),
  wrongFile('dma-map-of-a-socket', 'a map with the descriptor of a socket', dmaMap(IOVA, BYTES), (scope) => {
    const [near, far] = unixSocketPair('conformance');
    scope.own(far);
    return [scope.own(near)];
  }),
  wrongFile('dma-map-of-an-eventfd', 'a map with an eventfd', dmaMap(IOVA, BYTES), (scope) => [
    scope.own(Fd.eventfd('conformance')),
  ]),
  wrongFile(
    'dma-map-behind-the-file',
    'a map that its file ends before',
    dmaMap(IOVA, 2 * BYTES),
    (scope) => [scope.own(memory())],
  ),
  wrongFile(
    'dma-map-offset-overflows',
    'a map with the offset 2^63 in its file',
    dmaMap(IOVA, BYTES, { offset: 2 ** 63 }),
    (scope) => [scope.own(memory())],
  ),
  mapped(
    {
      name: 'dma-unmap',
      section: UNMAP,
      sent: 'a map, and the unmap of it',
      expected: 'a reply whose payload is that of the request',
    },
    async (play) => {
      const payload = dmaUnmap(IOVA, BYTES);
      const heard = await unmap(play, payload);
      if (!isSuccess(heard)) return failed(play.describe(heard));
      const { payload: got } = heard.reply;
      if (got.length !== payload.length) return failed(`a payload of ${got.length} bytes`);
      // argsz may be the size of the reply instead.
      const is = Buffer.compare(got.subarray(8), payload.subarray(8)) === 0;
      return is ? passed(play.describe(heard)) : failed('another entry than that of the request');
    },
  ),
  mapped(
    {
      name: 'dma-unmap-and-map',
      section: UNMAP,
      sent: 'a map, the unmap of it, and the map again',
      expected: 'replies to all',
    },
    async (play) => {
      await unmap(play, dmaUnmap(IOVA, BYTES));
      const heard = await map(play, dmaMap(IOVA, BYTES));
      return (isSuccess(heard) ? passed : failed)(play.describe(heard));
    },
  ),
  mapped(
    {
      name: 'dma-unmap-part',
      section: UNMAP,
      sent: 'the unmap of the first page of a map',
      expected: 'an error, and the map stays: mapping over it is EEXIST',
    },
    async (play) => {
      const heard = await unmap(play, dmaUnmap(IOVA, PAGE));
      if (!isError(heard)) return failed(play.describe(heard));
      return refusedOver(play, dmaMap(IOVA, PAGE));
    },
  ),
  mapped(
    {
      name: 'dma-unmap-other',
      section: UNMAP,
      sent: 'the unmap of a range without maps',
      expected: 'an error or a reply, and other maps stay: mapping over them is EEXIST',
    },
    async (play) => {
      const heard = await unmap(play, dmaUnmap(2 * IOVA, BYTES));
      if (!isAnswer(heard)) return failed(play.describe(heard));
      return refusedOver(play, dmaMap(IOVA, BYTES));
    },
  ),
  mapped(
    {
      name: 'dma-unmap-argsz-too-small',
      section: 'Message sizes',
      sent: `${UNMAP} with argsz 16`,
      expected: REFUSED,
    },
    async (play) => refused(play, await unmap(play, dmaUnmap(IOVA, BYTES, 16))),
  ),
  mapped(
    { name: 'dma-unmap-too-short', section: UNMAP, sent: 'a payload of 16 bytes', expected: REFUSED },
    async (play) => refused(play, await unmap(play, dmaUnmap(IOVA, BYTES).subarray(0, 16))),
  ),
  mappedFile(
    {
      name: 'dma-unmap-releases',
      section: UNMAP,
      sent: 'a map with a descriptor, and the unmap of it',
      expected: 'a reply, at which the server has no mapping of the file any more',
    },
    async (play, file) => {
      const heard = await unmap(play, dmaUnmap(IOVA, BYTES));
      if (!isSuccess(heard)) return failed(play.describe(heard));
      return (await isUnmapped(file, 0)) ? passed('none is left') : failed('it still maps the file');
    },
  ),
  mappedFile(
    {
      name: 'disconnect-unmaps',
      section: 'Client Disconnection',
      sent: 'a map with a descriptor; then the client disconnects',
      expected: 'the file is unmapped, and the next client can map the same range',
    },
    async (play, file) => {
      await play.reconnect();
      if (!(await isUnmapped(file, play.patienceMs))) return failed('it still maps the file');
      const heard = await map(play, dmaMap(IOVA, BYTES));
      return (isSuccess(heard) ? passed : failed)(play.describe(heard));
    },
  ),
  {
    name: 'dma-map-many',
    section: 'Command Concurrency',
    sent: `${MANY} maps and their unmaps, one after the other`,
    expected: 'replies to all',
    async play(play) {
      for (const [send, what] of [
        [(at: number) => map(play, dmaMap(at, PAGE)), 'map'],
        [(at: number) => unmap(play, dmaUnmap(at, PAGE)), 'unmap'],
      ] as const) {
        for (let i = 0; i < MANY; i++) {
          const heard = await send(IOVA + 2 * i * PAGE);
          if (!isSuccess(heard)) return failed(`to ${what} ${i + 1}: ${play.describe(heard)}`);
        }
      }
      return passed('replies to all');
    },
  },
];

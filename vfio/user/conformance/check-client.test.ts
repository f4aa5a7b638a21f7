import { afterAll, beforeAll, expect, test } from 'vitest';
import { duplicateFd, Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import * as protocol from '../protocol.js';
import { ClientThread } from '../testing/client.js';
import {
  type AttachVfioUserClient,
  checkVfioUserClient,
  VFIO_USER_CLIENT_RULES,
  type VfioUserConformance,
} from './index.js';
import { access, dmaAccess, question, version, words } from './payloads.js';
import { readVersion } from './server-facts.js';
import { type ClientFault, OWN_ID, startWrongClient } from './testing/client-relay.js';
import type { Instead, Kept } from './testing/kept.js';

/** Generous, for a busy machine: only a client that says nothing costs it. */
const PATIENCE_MS = 20_000;
/** For a client that does. */
const IMPATIENT_MS = 1500;
/** Of our client, for a reply that never comes: by these rules, it waits for that as long as it may. */
const SHORT_MS = 2000;
const WITHOUT_REPLY = ['reply-never', 'reply-of-type-command'];
const SETTLE_MS = 20;
/** Plays all rules to each wrong client, and not only some of them. */
const HAS_ALL = process.env.TSVISOR_CONFORM_ALL === '1';

let client: ClientThread;
beforeAll(async () => {
  client = await ClientThread.start();
  await check(attach, ['version-first']); // so that its threads have opened what they keep
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
});

const attach = (path: string, rule: string) =>
  client.attach(path, WITHOUT_REPLY.includes(rule) ? SHORT_MS : PATIENCE_MS);
const check = (
  how: AttachVfioUserClient,
  only?: readonly string[],
  patienceMs = PATIENCE_MS,
): Promise<VfioUserConformance> =>
  checkVfioUserClient({ attach: how, patienceMs, settleMs: SETTLE_MS, ...(only && { only }) });

const failures = ({ results }: VfioUserConformance): readonly string[] =>
  results.filter(({ verdict }) => verdict === 'failed').map(({ name, got }) => `${name}: ${got}`);

test('our client breaks no rule, and all are about something that it does', async () => {
  const report = await check(attach);
  expect(report.ended).toBeUndefined();
  expect(failures(report)).toEqual([]);
  expect(report.results.filter(({ verdict }) => verdict !== 'passed').map(({ name }) => name)).toEqual([]);
  expect(report.results.map(({ name }) => name)).toEqual(VFIO_USER_CLIENT_RULES);
  expect(new Set(VFIO_USER_CLIENT_RULES).size).toBe(VFIO_USER_CLIENT_RULES.length);
}, 300_000);

const {
  VFIO_USER_VERSION: VERSION,
  VFIO_USER_DEVICE_GET_INFO: INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO: IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO: REGION_INFO,
  VFIO_USER_DEVICE_SET_IRQS: SET_IRQS,
  VFIO_USER_DMA_MAP: MAP,
  VFIO_USER_DMA_UNMAP: UNMAP,
  VFIO_USER_DMA_READ: DMA_READ,
  VFIO_USER_DMA_WRITE: DMA_WRITE,
  VFIO_USER_REGION_READ: READ,
  VFIO_USER_REGION_WRITE: WRITE,
} = protocol;
const NO_REPLY = 0x10;
const ERROR = 0x21;
const isReply = ({ flags }: Kept): boolean => (flags & 1) === 1;

/** With another word. */
function put(bytes: Uint8Array, at: number, value: number): Uint8Array<ArrayBuffer> {
  const changed = Uint8Array.from(bytes);
  new DataView(changed.buffer).setUint32(at, value, true);
  return changed;
}
const word = ({ payload }: Kept, at: number): number =>
  new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getUint32(at, true);

const commands = (command: number, change: (message: Kept) => Instead | undefined): ClientFault => ({
  fromClient: (message) => (message.command === command && !isReply(message) ? change(message) : undefined),
});
/** Of the client, to the server. */
const answers = (change: (message: Kept) => Instead | undefined): ClientFault => ({
  fromClient: (message) => (isReply(message) ? change(message) : undefined),
});
const replies = (command: number, change: (message: Kept) => Instead | undefined): ClientFault => ({
  fromServer: (message) => (message.command === command && isReply(message) ? change(message) : undefined),
});
/** The client sees another limit than the server has named. */
const unlimited = (name: string, value: number, limit?: number): ClientFault =>
  replies(VERSION, ({ payload }) => {
    const capabilities = readVersion({ payload })?.capabilities ?? {};
    if (capabilities[name] !== limit) return undefined;
    return [{ payload: Uint8Array.from(version({ capabilities: { ...capabilities, [name]: value } })) }];
  });
/** Another message of its own, behind a client's one. */
const own = (command: number, payload: Uint8Array) => ({
  command,
  payload: Uint8Array.from(payload),
  fds: [],
  id: OWN_ID,
  flags: 0,
});
const behind = (command: number, ...sent: Parameters<typeof own>) =>
  commands(command, () => [{}, own(...sent)]);

/** Holds the server's requests back while a reply is awaited. */
function deaf(): ClientFault {
  const held: Kept[] = [];
  return {
    fromServer(message) {
      if (message.command === INFO && isReply(message)) return [{}, ...held.splice(0)];
      if (message.command !== DMA_READ || isReply(message) || word(message, 4) !== 0xf_0000) return undefined;
      held.push(message);
      return [];
    },
  };
}

/** Waits for more of a session in which the server has sent a circle. */
function caught(): ClientFault {
  let isCaught = false;
  return {
    fromServer(message) {
      isCaught ||= message.command === REGION_INFO && message.payload.length > 32 && word(message, 36) === 32;
      return isCaught ? [] : undefined;
    },
  };
}

/** Rules about what most wrong clients touch. */
const OTHERS = [
  'version-once',
  'payload-size',
  'descriptors',
  'set-irqs-range',
  'dma-unmap',
  'dma-read',
  'detach',
];

/** A rule, and what makes our client break it. */
const MUTANTS: readonly (readonly [string, (scope: Scope) => ClientFault])[] = [
  ['version-first', () => commands(VERSION, () => [own(INFO, question(16)), {}])],
  ['version-once', () => behind(VERSION, VERSION, version({}))],
  ['version-major', () => commands(VERSION, ({ payload }) => [{ payload: put(payload, 0, 0x2_0001) }])],
  ['version-data', () => commands(VERSION, ({ payload }) => [{ payload: payload.slice(0, -1) }])],
  [
    'version-capabilities',
    () =>
      commands(VERSION, () => [
        { payload: Uint8Array.from(version({ capabilities: { max_msg_fds: 'many' } })) },
      ]),
  ],
  ['command-type', () => commands(IRQ_INFO, () => [{}, { id: OWN_ID, flags: 1 }])],
  ['command-flags', () => commands(IRQ_INFO, () => [{ flags: 0x20 }])],
  ['command-known', () => behind(INFO, 14, words(0, 0))],
  ['payload-size', () => commands(IRQ_INFO, ({ payload }) => [{ payload: payload.slice(0, 8) }])],
  ['argsz', () => commands(INFO, ({ payload }) => [{ payload: put(payload, 0, 8) }])],
  [
    'descriptors',
    (scope) => {
      const { number } = scope.own(Fd.eventfd('stray'));
      return commands(INFO, () => [{ fds: [number] }]);
    },
  ],
  ['max-msg-fds', () => unlimited('max_msg_fds', 16, 8)],
  ['max-msg-fds-1', () => unlimited('max_msg_fds', 8, 1)],
  ['max-msg-fds-absent', () => unlimited('max_msg_fds', 8)],
  ['region-info-index', () => behind(INFO, REGION_INFO, words(32, 0, 9, 0, 0, 0, 0, 0))],
  ['irq-info-index', () => behind(INFO, IRQ_INFO, question(16, 5))],
  ['region-access-inside', () => behind(INFO, READ, access(7, 254, 4))],
  ['region-write-data', () => behind(INFO, WRITE, access(0, 0, 4, [1, 2]))],
  ['max-data-xfer-size-128', () => unlimited('max_data_xfer_size', 4096, 128)],
  ['write-multi-unasked', () => behind(INFO, protocol.VFIO_USER_REGION_WRITE_MULTI, words(0, 0))],
  ['reset-right', () => replies(INFO, (reply) => [{ payload: put(reply.payload, 4, word(reply, 4) | 1) }])],
  ['set-irqs-flags', () => behind(INFO, SET_IRQS, words(20, 0x31, 0, 0, 1))],
  ['set-irqs-range', () => behind(INFO, SET_IRQS, words(20, 0x21, 2, 10, 7))],
  [
    'set-irqs-descriptors',
    () => commands(SET_IRQS, ({ fds }) => [{ fds: fds.length > 1 ? fds.slice(1) : fds }]),
  ],
  [
    'set-irqs-bools',
    () =>
      commands(SET_IRQS, ({ payload }) =>
        payload.length > 20 ? [{ payload: payload.slice(0, 20) }] : undefined,
      ),
  ],
  ['dma-map-flags', () => commands(MAP, (map) => [{ payload: put(map.payload, 4, word(map, 4) | 4) }])],
  ['dma-map-range', () => behind(INFO, MAP, words(32, 3, 0, 0, 0, 0x100, 0, 0))],
  ['pgsizes-64k', () => unlimited('pgsizes', 4096, 65_536)],
  ['dma-map-overlap', () => commands(MAP, ({ payload }) => [{}, own(MAP, payload)])],
  ['dma-map-descriptor', () => commands(MAP, ({ payload }) => [{ payload: put(payload, 8, 0x800_0000) }])],
  ['max-dma-maps-1', () => unlimited('max_dma_maps', 8, 1)],
  ['dma-unmap', () => commands(UNMAP, ({ payload }) => [{ payload: put(payload, 16, 4096) }])],
  [
    'version-reply-minor-above',
    () =>
      replies(VERSION, ({ payload }) =>
        payload[2] === 3 ? [{ payload: put(payload, 0, 0x2_0000) }] : undefined,
      ),
  ],
  [
    'reply-wrong-id',
    () => {
      let asked = 0;
      return {
        fromClient: ({ id }) => {
          asked = id;
          return undefined;
        },
        ...replies(INFO, () => [{ id: asked }]),
      };
    },
  ],
  ['request-before-reply', deaf],
  ['capabilities-circle', caught],
  [
    'stray-descriptor-released',
    (scope) => ({
      fromServer({ command, fds }) {
        const [fd] = fds.length === 1 && command === INFO ? fds : [];
        if (fd !== undefined) scope.own(duplicateFd(fd, 'kept'));
        return undefined;
      },
    }),
  ],
  [
    'dma-write-read-only',
    () =>
      answers((answer) =>
        answer.command === DMA_WRITE && answer.errno === 1
          ? [{ flags: 1, errno: 0, payload: Uint8Array.from(dmaAccess(0, 0)) }]
          : undefined,
      ),
  ],
  ['request-ids', () => answers(({ id }) => (id === 0xffff ? [{ id: 1 }] : undefined))],
  [
    'request-no-reply',
    () => ({ fromServer: ({ flags }) => (flags === NO_REPLY ? [{ flags: 0 }] : undefined) }),
  ],
  [
    'request-unknown',
    () => answers(({ command }) => (command === 0x7fff ? [{ flags: 1, errno: 0 }] : undefined)),
  ],
  [
    'request-of-clients',
    () =>
      answers(({ command, flags }) =>
        command === INFO && flags === ERROR ? [{ payload: new Uint8Array(16) }] : undefined,
      ),
  ],
];

test.each(MUTANTS)(
  'a client that breaks %s fails that rule and no other',
  async (rule, make) => {
    const only = HAS_ALL ? undefined : [...new Set([rule, ...OTHERS])];
    using scope = new Scope();
    const wrong: AttachVfioUserClient = (path, name) =>
      startWrongClient(path, make(scope), (relayed) => attach(relayed, name));
    const patienceMs = ['capabilities-circle', 'request-before-reply', 'stray-descriptor-released'].includes(
      rule,
    )
      ? IMPATIENT_MS
      : PATIENCE_MS;
    const report = await check(wrong, only, patienceMs);
    expect(report.ended).toBeUndefined();
    expect(
      failures(report).map((text) => text.split(':')[0]),
      failures(report).join('\n'),
    ).toEqual([rule]);
  },
  180_000,
);

import { expect, test } from 'vitest';
import { duplicateFd } from '../../../sys/fd.js';
import { Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { hostCard } from '../testing/card.js';
import { checkVfioUserServer, SERVER_RULE_FAMILIES, VFIO_USER_SERVER_RULES } from './check-server.js';
import { version } from './payloads.js';
import type { VfioUserConformance } from './report.js';
import { type Fault, InlineServer } from './testing/inline-server.js';
import type { Kept } from './testing/kept.js';

/** Generous, for a busy machine: only what a wrong server does not answer costs it. */
const PATIENCE_MS = 3000;
/** Plays all rules against each wrong server, and not only those about the same. */
const HAS_ALL = process.env.TSVISOR_CONFORM_ALL === '1';
const NO_REPLY = 0x10;
const ERROR = 0x21;
const [EINVAL, EEXIST] = [22, 17];
const [VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, , IO_FDS, IRQ_INFO, SET_IRQS, READ, WRITE] = [
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
];
const [UNKNOWN, FEATURE, DATA_READ] = [0x7fff, 16, 17];
const ENOMSG = 42;
const IOVA = 0x10_0000_0000;
const PAGE = 4096;

async function check(
  fault: Fault = {},
  only?: readonly string[],
  hasPreCopy = false,
): Promise<VfioUserConformance> {
  using host = hostCard(hasPreCopy);
  using server = new InlineServer(() => host.open(), fault);
  return await checkVfioUserServer(() => server.connect(), {
    patienceMs: PATIENCE_MS,
    ...(only && { only }),
  });
}

const failures = ({ results }: VfioUserConformance): readonly string[] =>
  results.filter(({ verdict }) => verdict === 'failed').map(({ name, got }) => `${name}: ${got}`);

/** A word of a payload, which may be too short for it. */
const word = (bytes: Uint8Array, at: number): number | undefined =>
  bytes.length < at + 4 ? undefined : viewOf(bytes).getUint32(at, true);
const number = (bytes: Uint8Array, at: number): number | undefined =>
  bytes.length < at + 8 ? undefined : Number(viewOf(bytes).getBigUint64(at, true));
const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array) =>
  new DataView(buffer, byteOffset, byteLength);
/** With another word. */
function put(bytes: Uint8Array<ArrayBuffer>, at: number, value: number): Uint8Array<ArrayBuffer> {
  const changed = bytes.slice();
  new DataView(changed.buffer).setUint32(at, value, true);
  return changed;
}
const owned = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => Uint8Array.from(bytes);

const replies = (
  command: number,
  change: (reply: Kept, asked: Kept) => Partial<Kept> | undefined,
): Fault => ({
  reply(reply, asked) {
    const changed = asked.command === command ? change(reply, asked) : undefined;
    return changed && [changed];
  },
});
const commands = (command: number, change: (message: Kept) => Partial<Kept> | undefined): Fault => ({
  command(message) {
    const changed = message.command === command ? change(message) : undefined;
    return changed && [changed];
  },
});
const answers = (command: number, answer: (message: Kept) => Partial<Kept> | undefined): Fault => ({
  answer: (message) => (message.command === command ? answer(message) : undefined),
});

/** Two replies in the wrong order. */
function swapped(): Fault {
  let held: Kept | undefined;
  return {
    reply(reply) {
      if (reply.command === IRQ_INFO && reply.id === 1) {
        held = reply;
        return [];
      }
      if (held === undefined) return undefined;
      const both = [{}, held];
      held = undefined;
      return both;
    },
  };
}

/** Maps what the client shares, and unmaps it at a command that `isEnd`. */
function keeping(scope: Scope, isEnd: (command: number) => boolean): Fault {
  let mapped: Mapping | undefined;
  return {
    command({ command, fds: [number] }) {
      if (isEnd(command)) {
        mapped?.[Symbol.dispose]();
        mapped = undefined;
      }
      if (command !== DMA_MAP || number === undefined) return undefined;
      using fd = duplicateFd(number, 'shared');
      try {
        mapped = scope.own(Mapping.file(fd, 4 * PAGE, { isWritable: true }));
      } catch {
        // no memory
      }
      return undefined;
    },
  };
}

/** A rule, and a server that breaks it. */
const MUTANTS: readonly (readonly [string, (scope: Scope) => Fault])[] = [
  ['header-message-id', () => ({ reply: ({ id }) => [{ id: (id + 1) & 0xffff }] })],
  [
    'error-is-a-header',
    () => ({ reply: ({ flags }) => (flags === ERROR ? [{ payload: new Uint8Array(8) }] : undefined) }),
  ],
  [
    'no-reply-error',
    () => answers(UNKNOWN, ({ flags }) => (flags === NO_REPLY ? { flags: ERROR, errno: EINVAL } : undefined)),
  ],
  [
    'no-reply-success',
    () => commands(IRQ_INFO, ({ flags }) => (flags === NO_REPLY ? { flags: 0 } : undefined)),
  ],
  [
    'version-minor-0',
    () =>
      replies(VERSION, ({ payload }) => {
        const changed = payload.slice();
        if (changed[2] === 0) changed[2] = 1;
        return { payload: changed };
      }),
  ],
  [
    'version-other-major',
    () =>
      commands(VERSION, ({ payload }) => (payload[0] === 1 ? { payload: put(payload, 0, 0) } : undefined)),
  ],
  [
    'version-subset',
    () =>
      replies(VERSION, (_reply, { payload }) =>
        Buffer.from(payload.subarray(4)).toString() === '{"capabilities":{"max_msg_fds":16}}\0'
          ? { payload: owned(version({ capabilities: { write_multiple: true } })) }
          : undefined,
      ),
  ],
  [
    'dma-map-over-part',
    () =>
      replies(DMA_MAP, ({ errno }, { payload }) =>
        errno === EEXIST && number(payload, 16) === IOVA + 3 * PAGE ? { errno: EINVAL } : undefined,
      ),
  ],
  ['dma-unmap-releases', (scope) => keeping(scope, (command) => command !== DMA_UNMAP)],
  ['disconnect-unmaps', (scope) => keeping(scope, (command) => command === DMA_UNMAP)],
  [
    'set-irqs-trigger-false',
    () =>
      commands(SET_IRQS, ({ payload }) =>
        payload.length === 21 && payload[20] === 0
          ? { payload: Uint8Array.from([...payload.subarray(0, 20), 1]) }
          : undefined,
      ),
  ],
  [
    'set-irqs-two-data-flags',
    () =>
      commands(SET_IRQS, ({ payload }) =>
        payload[4] === 0x23 ? { payload: put(payload, 4, 0x21) } : undefined,
      ),
  ],
  [
    'region-read-across-the-end',
    () =>
      answers(READ, ({ payload }) =>
        word(payload, 12) === 4 && number(payload, 0) === 254
          ? { payload: Uint8Array.from([...payload, 0, 0, 0, 0]) }
          : undefined,
      ),
  ],
  [
    'region-write-no-reply',
    () => ({ command: (m) => (m.command === WRITE && m.flags === NO_REPLY ? [] : undefined) }),
  ],
  [
    'device-info-argsz-larger',
    () =>
      replies(GET_INFO, ({ payload }, asked) => {
        const argsz = word(asked.payload, 0);
        return argsz === 256 && payload.length > 0 ? { payload: put(payload, 0, argsz) } : undefined;
      }),
  ],
  ['io-fds-flags', () => commands(IO_FDS, ({ payload }) => ({ payload: put(payload, 4, 0) }))],
  [
    'migration-to-error',
    () =>
      answers(FEATURE, ({ payload }) =>
        word(payload, 4) === 0x2_0002 && payload.length === 16 && word(payload, 8) === 0
          ? { payload }
          : undefined,
      ),
  ],
  [
    'dma-logging-bits-outside',
    () =>
      replies(FEATURE, ({ payload, flags }, asked) =>
        word(asked.payload, 4) === 0x1_0008 && flags === 1 && payload.length === 40
          ? { payload: put(payload, 32, 0xff) }
          : undefined,
      ),
  ],
  ['pipelined-order', swapped],
  [
    'stray-descriptor-released',
    (scope) => ({
      command({ command, fds: [number] }) {
        if (command === GET_INFO && number !== undefined) scope.own(duplicateFd(number, 'kept'));
        return undefined;
      },
    }),
  ],
];

test('our server breaks no rule, and most are applicable to the card', async () => {
  const report = await check();
  expect(report.ended).toBeUndefined();
  expect(failures(report)).toEqual([]);
  const idle = report.results.filter(({ verdict }) => verdict === 'not applicable').map(({ name }) => name);
  expect(idle).toEqual([
    'set-irqs-mask',
    'region-read-without-right',
    'region-write-without-right',
    'reset-without-right',
    'migration-pre-copy',
    'migration-pre-copy-stop-copy',
    'migration-back-to-pre-copy',
    'migration-pre-copy-round-trip',
  ]);
  expect(report.results.map(({ name }) => name)).toEqual(VFIO_USER_SERVER_RULES);
  expect(new Set(VFIO_USER_SERVER_RULES).size).toBe(VFIO_USER_SERVER_RULES.length);
}, 180_000);

const PRE_COPY_RULES = [
  ...['migration-pre-copy', 'migration-pre-copy-stop-copy', 'migration-back-to-pre-copy'],
  'migration-pre-copy-round-trip',
];

test('of a device that is read while it runs, our server keeps the rules of PRE_COPY, too', async () => {
  const { results } = await check({}, PRE_COPY_RULES, true);
  expect(
    results
      .filter(({ verdict }) => verdict === 'passed')
      .map(({ name }) => name)
      .sort(),
  ).toEqual([...PRE_COPY_RULES].sort());
  const got = results.find(({ name }) => name === 'migration-pre-copy-round-trip')?.got;
  expect(got).toMatch(/^100 and 3996 bytes$/);
});

test.each<[string, Fault]>([
  [
    'says ENOMSG, where it has nothing to read for now',
    replies(DATA_READ, ({ payload }) =>
      payload.length === 8 ? { flags: ERROR, errno: ENOMSG, payload: new Uint8Array(0) } : undefined,
    ),
  ],
  [
    'counts no data in argsz',
    replies(DATA_READ, ({ payload }) =>
      payload.length > 8 ? { payload: put(owned(payload), 0, 8) } : undefined,
    ),
  ],
])('a server that %s breaks the rule of what is read in PRE_COPY, and no other', async (_, fault) => {
  expect(failures(await check(fault, PRE_COPY_RULES, true)).map((text) => text.split(':')[0])).toEqual([
    'migration-pre-copy-round-trip',
  ]);
});

test('a state that is longer than the judge reads is no failure of the server', async () => {
  const chunk = new Uint8Array(8 + PAGE);
  const endless = replies(DATA_READ, () => ({ payload: put(put(chunk, 0, 8 + PAGE), 4, PAGE) }));
  const { results } = await check(endless, ['migration-round-trip']);
  expect(results.map(({ verdict, got }) => [verdict, got])).toEqual([
    ['not applicable', 'no end after 67108864 bytes, and more is not read'],
  ]);
}, 60_000);

test.each(MUTANTS)(
  'a server that breaks %s fails that rule and no other',
  async (rule, make) => {
    using scope = new Scope();
    const names = SERVER_RULE_FAMILIES.map((family) => family.map(({ name }) => name));
    const report = await check(make(scope), HAS_ALL ? undefined : names.find((each) => each.includes(rule)));
    expect(report.ended).toBeUndefined();
    expect(failures(report).map((text) => text.split(':')[0])).toEqual([rule]);
  },
  180_000,
);

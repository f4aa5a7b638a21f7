/** Rules of VFIO_USER_DEVICE_FEATURE: features at all, migration states, and their data. */
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../feature.js';
import { Writer } from '../message.js';
import {
  HEADER_BYTES,
  VFIO_USER_DEVICE_FEATURE,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_MIG_DATA_READ,
  VFIO_USER_MIG_DATA_WRITE,
} from '../protocol.js';
import { feature, words } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import type { ServerFacts } from './server-facts.js';
import { type Ask, answers, type Play, REFUSED, refused, refuses, type ServerRule } from './server-rule.js';
import { type Heard, isAnswer, isError, isSuccess, wordAt } from './wire.js';

const section = 'VFIO_USER_DEVICE_FEATURE';
const command = VFIO_USER_DEVICE_FEATURE;
const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;
const PROBE = VFIO_DEVICE_FEATURE_PROBE;
const STATE = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
const NO_MIGRATION = 'the device cannot be migrated';
const UNKNOWN_FEATURE = 0x7f;
const UNKNOWN_STATE = 99;
const CHUNK = 4096;
/** Bytes of a state that are read at most: a longer one is no failure of the server's. */
const MOST_STATE_BYTES = 64 << 20;

const NAMES: Readonly<Record<number, string>> = {
  [VFIO_DEVICE_STATE_ERROR]: 'ERROR',
  [VFIO_DEVICE_STATE_STOP]: 'STOP',
  [VFIO_DEVICE_STATE_RUNNING]: 'RUNNING',
  [VFIO_DEVICE_STATE_STOP_COPY]: 'STOP_COPY',
  [VFIO_DEVICE_STATE_RESUMING]: 'RESUMING',
  [VFIO_DEVICE_STATE_PRE_COPY]: 'PRE_COPY',
};
const nameOf = (state: number | undefined): string => NAMES[state ?? -1] ?? `state ${state}`;

const get = ({ wire }: Play): Promise<Heard> => wire.ask(command, feature(GET | STATE, 16));
const set = ({ wire }: Play, state: number): Promise<Heard> =>
  wire.ask(command, feature(SET | STATE, 16, words(state, 0xffff_ffff)));
const readData = ({ wire }: Play, size: number): Promise<Heard> =>
  wire.ask(VFIO_USER_MIG_DATA_READ, words(8 + size, size));
const writeData = ({ wire }: Play, data: Uint8Array, size = data.length): Promise<Heard> =>
  wire.ask(
    VFIO_USER_MIG_DATA_WRITE,
    new Writer(8 + data.length)
      .u32(8 + data.length)
      .u32(size)
      .data(data).bytes,
  );

type Row = Omit<ServerRule, 'play' | 'section'> & { readonly section?: string };

/** A rule about a device that can be migrated. The device gets back to RUNNING by the end of the connection, or by a reset. */
const migrates = (
  row: Row,
  play: (play: Play) => Promise<Outcome>,
  needs = VFIO_MIGRATION_STOP_COPY,
): ServerRule => ({
  section,
  ...row,
  async play(on) {
    const { migration } = on.facts;
    if (migration === undefined) return inapplicable(NO_MIGRATION);
    if ((migration & needs) !== needs) return inapplicable('the device has no PRE_COPY');
    const now = wordAt(await get(on), 8);
    if (now !== VFIO_DEVICE_STATE_RUNNING && on.facts.hasReset) await on.wire.ask(VFIO_USER_DEVICE_RESET);
    const outcome = await play(on);
    // A server may keep the state for the next client.
    if (wordAt(await get(on), 8) !== VFIO_DEVICE_STATE_RUNNING) await set(on, VFIO_DEVICE_STATE_RUNNING);
    return outcome;
  },
});

/** Goes through states; each must be told by GET afterwards. Returns the problem. */
async function walk(play: Play, ...states: readonly number[]): Promise<string | undefined> {
  for (const state of states) {
    const heard = await set(play, state);
    if (!isSuccess(heard)) return `to ${nameOf(state)}: ${play.describe(heard)}`;
    const now = wordAt(await get(play), 8);
    if (now !== state) return `${nameOf(now)} after the change to ${nameOf(state)}`;
  }
  return undefined;
}

const walks = (name: string, states: readonly number[], needs?: number): ServerRule =>
  migrates(
    {
      name,
      sent: `the states ${states.map(nameOf).join(', ')}`,
      expected: 'a reply to each, and GET tells it',
    },
    async (play) => {
      const problem = await walk(play, ...states);
      return problem === undefined ? passed('so it is') : failed(problem);
    },
    needs,
  );

/** Refuses to enter `state` after `before`. */
const refusesState = (
  name: string,
  sent: string,
  before: readonly number[],
  state: number,
  needs?: number,
): ServerRule =>
  migrates(
    { name, sent, expected: REFUSED },
    async (play) => {
      const problem = await walk(play, ...before);
      return problem === undefined ? refused(play, await set(play, state)) : failed(problem);
    },
    needs,
  );

/** Reads the state, or what there is of it in PRE_COPY; else the outcome of the rule. @param where it is read, for the outcome */
async function save(play: Play, where = ''): Promise<Uint8Array | Outcome> {
  const pieces: Uint8Array[] = [];
  const wrong = (got: string) => failed(`${where}${got}`);
  for (let total = 0; total < MOST_STATE_BYTES; ) {
    const heard = await readData(play, CHUNK);
    const [argsz, size] = [wordAt(heard, 0), wordAt(heard, 4)];
    if (!isSuccess(heard) || argsz === undefined || size === undefined) return wrong(play.describe(heard));
    const data = heard.reply.payload.subarray(8);
    if (size !== data.length) return wrong(`size ${size} with ${data.length} bytes`);
    if (size > CHUNK) return wrong(`${size} bytes where ${CHUNK} were asked for`);
    if (argsz !== 8 + size) return wrong(`argsz ${argsz} with ${size} bytes`);
    pieces.push(data);
    total += size;
    if (size < CHUNK) return Buffer.concat(pieces);
  }
  return inapplicable(`${where}no end after ${MOST_STATE_BYTES} bytes, and more is not read`);
}

/** Loads a state, and lets the device run. Returns the problem. */
async function load(play: Play, data: Uint8Array): Promise<string | undefined> {
  const loading = await walk(play, STOP, RESUMING);
  if (loading !== undefined) return loading;
  for (let at = 0; at < data.length; at += CHUNK) {
    const heard = await writeData(play, data.subarray(at, at + CHUNK));
    if (!isSuccess(heard)) return `to the data at ${at}: ${play.describe(heard)}`;
    if (heard.reply.size !== HEADER_BYTES) return `to the data at ${at}: ${heard.reply.size} bytes`;
  }
  return walk(play, STOP, RUNNING);
}

const refusesData = (
  name: string,
  at: string,
  sent: string,
  before: readonly number[],
  send: (play: Play) => Promise<Heard>,
): ServerRule =>
  migrates({ name, section: at, sent, expected: REFUSED }, async (play) => {
    const problem = await walk(play, ...before);
    return problem === undefined ? refused(play, await send(play)) : failed(problem);
  });

const wrongFeature = (
  name: string,
  sent: string,
  payload: Uint8Array,
  needed?: (facts: ServerFacts) => boolean,
): ServerRule =>
  refuses({
    name,
    section,
    sent,
    ask: (facts): Ask | string => (needed?.(facts) === false ? NO_MIGRATION : { command, payload }),
  });

const canMigrate = ({ migration }: ServerFacts): boolean => migration !== undefined;

const READ = 'VFIO_USER_MIG_DATA_READ';
const WRITE = 'VFIO_USER_MIG_DATA_WRITE';
const [STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY] = [
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_PRE_COPY,
];

export const MIGRATION_RULES: readonly ServerRule[] = [
  answers({
    name: 'migration',
    section,
    sent: 'GET of VFIO_DEVICE_FEATURE_MIGRATION',
    expected: 'argsz 16, a payload of 16 bytes, and VFIO_MIGRATION_STOP_COPY at least',
    ask: ({ migration }) =>
      migration === undefined
        ? NO_MIGRATION
        : { command, payload: feature(GET | VFIO_DEVICE_FEATURE_MIGRATION, 16) },
    check: (reply) => {
      const heard = { kind: 'reply', reply } as const;
      if (reply.payload.length !== 16) return `a payload of ${reply.payload.length} bytes`;
      if (wordAt(heard, 0) !== 16) return `argsz ${wordAt(heard, 0)}`;
      const flags = wordAt(heard, 8) ?? 0;
      return (flags & VFIO_MIGRATION_STOP_COPY) === 0 ? `flags ${flags}` : undefined;
    },
  }),
  answers({
    name: 'feature-probe',
    section,
    sent: 'PROBE and GET of VFIO_DEVICE_FEATURE_MIGRATION',
    expected: 'a payload that is that of the request',
    ask: ({ migration }) =>
      migration === undefined
        ? NO_MIGRATION
        : { command, payload: feature(PROBE | GET | VFIO_DEVICE_FEATURE_MIGRATION, 8) },
    check: (reply) => {
      if (reply.payload.length !== 8) return `a payload of ${reply.payload.length} bytes`;
      const flags = wordAt({ kind: 'reply', reply }, 4) ?? 0;
      return flags === (PROBE | GET | VFIO_DEVICE_FEATURE_MIGRATION)
        ? undefined
        : `flags 0x${flags.toString(16)}`;
    },
  }),
  wrongFeature('feature-unknown', `PROBE of feature ${UNKNOWN_FEATURE}`, feature(PROBE | UNKNOWN_FEATURE, 8)),
  wrongFeature(
    'feature-get-and-set',
    'GET and SET at once, without PROBE',
    feature(GET | SET | STATE, 16, words(RUNNING, 0)),
  ),
  wrongFeature('feature-no-action', 'neither GET, SET nor PROBE', feature(STATE, 16, words(RUNNING, 0))),
  wrongFeature(
    'feature-probe-of-a-set',
    'PROBE and SET of VFIO_DEVICE_FEATURE_MIGRATION, which cannot be set',
    feature(PROBE | SET | VFIO_DEVICE_FEATURE_MIGRATION, 8),
  ),
  wrongFeature(
    'feature-argsz-too-small',
    'GET of VFIO_DEVICE_FEATURE_MIGRATION with argsz 8, which has no room for its data',
    feature(GET | VFIO_DEVICE_FEATURE_MIGRATION, 8),
    canMigrate,
  ),
  wrongFeature('feature-too-short', 'a payload of 4 bytes', words(16)),
  wrongFeature(
    'migration-state-missing',
    'SET of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE without data',
    feature(SET | STATE, 16),
    canMigrate,
  ),
  migrates(
    {
      name: 'migration-begins-running',
      sent: 'GET of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE at the start',
      expected: 'RUNNING',
    },
    async (play) => {
      const heard = await get(play);
      const state = wordAt(heard, 8);
      if (state === undefined) return failed(play.describe(heard));
      return (state === RUNNING ? passed : failed)(nameOf(state));
    },
  ),
  walks('migration-stop', [STOP, RUNNING]),
  walks('migration-stop-copy', [STOP, STOP_COPY, STOP, RUNNING]),
  walks('migration-complex', [STOP_COPY, RUNNING]),
  walks('migration-pre-copy', [PRE_COPY, RUNNING], VFIO_MIGRATION_PRE_COPY),
  walks('migration-pre-copy-stop-copy', [PRE_COPY, STOP_COPY, STOP, RUNNING], VFIO_MIGRATION_PRE_COPY),
  refusesState('migration-to-error', 'the state ERROR', [], VFIO_DEVICE_STATE_ERROR),
  refusesState('migration-unknown-state', `the state ${UNKNOWN_STATE}`, [], UNKNOWN_STATE),
  refusesState(
    'migration-back-to-pre-copy',
    'STOP_COPY, and then PRE_COPY',
    [STOP_COPY],
    PRE_COPY,
    VFIO_MIGRATION_PRE_COPY,
  ),
  refusesState('migration-no-pre-copy', 'STOP_COPY, and then PRE_COPY', [STOP_COPY], PRE_COPY),
  migrates(
    {
      name: 'migration-round-trip',
      section: READ,
      sent: 'STOP_COPY, reads of its data to the end, RESUMING, writes of them, STOP and RUNNING',
      expected: 'size and argsz of what is read; replies to all',
    },
    async (play) => {
      const saving = await walk(play, STOP, STOP_COPY);
      if (saving !== undefined) return failed(saving);
      const data = await save(play);
      if (!(data instanceof Uint8Array)) return data;
      const problem = await load(play, data);
      return problem === undefined ? passed(`${data.length} bytes`) : failed(problem);
    },
  ),
  migrates(
    {
      name: 'migration-pre-copy-round-trip',
      section: READ,
      sent: 'PRE_COPY, reads of its data to a short one, STOP_COPY, reads to the end, RESUMING, writes of all, STOP and RUNNING',
      expected:
        'size and argsz of what is read, a short reply and no error where PRE_COPY has nothing for now; replies to all',
    },
    async (play) => {
      const begun = await walk(play, PRE_COPY);
      if (begun !== undefined) return failed(begun);
      const pieces = await save(play, 'in PRE_COPY: ');
      if (!(pieces instanceof Uint8Array)) return pieces;
      const again = await save(play, 'in PRE_COPY, without anything to read: ');
      if (!(again instanceof Uint8Array)) return again;
      const stopped = await walk(play, STOP_COPY);
      if (stopped !== undefined) return failed(stopped);
      const rest = await save(play, 'in STOP_COPY: ');
      if (!(rest instanceof Uint8Array)) return rest;
      const problem = await load(play, Buffer.concat([pieces, again, rest]));
      return problem === undefined ? passed(`${pieces.length} and ${rest.length} bytes`) : failed(problem);
    },
    VFIO_MIGRATION_PRE_COPY,
  ),
  refusesData('migration-read-while-running', READ, `${READ} while RUNNING`, [], (play) =>
    readData(play, 64),
  ),
  refusesData('migration-read-while-resuming', READ, `${READ} while RESUMING`, [STOP, RESUMING], (play) =>
    readData(play, 64),
  ),
  refusesData('migration-write-while-running', WRITE, `${WRITE} while RUNNING`, [], (play) =>
    writeData(play, new Uint8Array(8)),
  ),
  refusesData('migration-write-while-saving', WRITE, `${WRITE} while STOP_COPY`, [STOP, STOP_COPY], (play) =>
    writeData(play, new Uint8Array(8)),
  ),
  refusesData(
    'migration-write-data-missing',
    WRITE,
    `${WRITE} of 64 bytes with 8`,
    [STOP, RESUMING],
    (play) => writeData(play, new Uint8Array(8), 64),
  ),
  migrates(
    {
      name: 'migration-garbage',
      sent: 'data that is no state, and then STOP',
      expected: 'a reply or an error; VFIO_USER_DEVICE_RESET gets it back to RUNNING',
    },
    async (play) => {
      if (!play.facts.hasReset) return inapplicable('the device has no VFIO_DEVICE_FLAGS_RESET');
      const problem = await walk(play, STOP, RESUMING);
      if (problem !== undefined) return failed(problem);
      const written = await writeData(play, new Uint8Array(5).fill(0xa5));
      const heard = await set(play, STOP);
      for (const each of [written, heard]) if (!isAnswer(each)) return failed(play.describe(each));
      const reset = await play.wire.ask(VFIO_USER_DEVICE_RESET);
      if (!isSuccess(reset)) return failed(`to the reset: ${play.describe(reset)}`);
      const state = wordAt(await get(play), 8);
      return (state === RUNNING ? passed : failed)(
        `${isError(heard) ? play.describe(heard) : 'a reply'}; ${nameOf(state)} after the reset`,
      );
    },
  ),
];

/** Rules of the negotiation that begins a connection. */
import { VFIO_USER_DEVICE_GET_INFO, VFIO_USER_VERSION } from '../protocol.js';
import { PROPOSAL, question, version, words } from './payloads.js';
import { failed, passed } from './report.js';
import { readVersion } from './server-facts.js';
import { answers, exchange, refused, refuses, type ServerRule, survives } from './server-rule.js';
import { isError, isSuccess, type Reply } from './wire.js';

const section = 'VFIO_USER_VERSION';
const command = VFIO_USER_VERSION;
const isFresh = true;
/** What a sender says of itself, and no capability of the other side's. */
const LIMITS = ['max_msg_fds', 'max_data_xfer_size', 'max_dma_maps', 'pgsizes'];
const LONG = 60_000;
const LATEST = 0xffff;

const propose = (json: unknown, minor = 2) => ({ command, payload: version(json, 0, minor) });

/** The reply's names and whether each is on, less those that every side may say of itself. */
const features = (reply: Reply): readonly string[] =>
  Object.entries(readVersion(reply)?.capabilities ?? {})
    .filter(
      ([name, value]) =>
        !LIMITS.includes(name) && value !== false && !(name === 'twin_socket' && isOff(value)),
    )
    .map(([name]) => name);
const isOff = (twin: unknown): boolean =>
  typeof twin === 'object' && twin !== null && (twin as { supported?: unknown }).supported !== true;

const minorAtMost =
  (most: number) =>
  (reply: Reply): string | undefined => {
    const minor = readVersion(reply)?.minor;
    return minor !== undefined && minor <= most ? undefined : `minor version ${minor}`;
  };

/** A proposal whose version data is wrong. */
const wrong = (name: string, what: string, json: unknown): ServerRule =>
  refuses({ name, section, isFresh, sent: `version data with ${what}`, ask: propose(json) });

/** A proposal of a feature as what it cannot be: refused, or not taken for one. */
const unclaimed = (name: string, feature: string, value: unknown): ServerRule => ({
  name,
  section,
  isFresh,
  sent: `version data with ${feature} ${JSON.stringify(value)}`,
  expected: `an error, the end of the connection, or a reply without ${feature}`,
  async play(play) {
    const heard = await exchange(play, propose({ capabilities: { [feature]: value } }));
    if (!isSuccess(heard)) return refused(play, heard);
    const claimed = features(heard.reply).includes(feature);
    return claimed ? failed(`a reply with ${feature}`) : passed(play.describe(heard));
  },
});

/** A server that does not speak the version must not go on with the connection. */
const otherMajor: ServerRule = {
  name: 'version-other-major',
  section,
  isFresh,
  sent: 'version 1.0',
  expected: 'the end of the connection, after an error or without; then the next client is served',
  async play(play) {
    const heard = await exchange(play, { command, payload: version(PROPOSAL, 1, 0) });
    const got = play.describe(heard);
    if (heard.kind !== 'closed' && !isError(heard)) return failed(got);
    if (heard.kind !== 'closed' && !(await play.wire.isClosed()))
      return failed(`${got}, and the connection stays open`);
    const problem = await play.notServing(heard);
    return problem === undefined ? passed(got) : failed(`${got}, and to the next client: ${problem}`);
  },
};

const secondVersion: ServerRule = refuses({
  name: 'version-twice',
  section,
  sent: 'a second VFIO_USER_VERSION',
  ask: propose(PROPOSAL),
});

const twinSocket: ServerRule = answers({
  name: 'version-twin-socket',
  section,
  isFresh,
  sent: 'version data that asks for a twin socket',
  expected: 'a reply; if it has a twin socket, with the descriptor at fd_index',
  ask: propose({ capabilities: { ...PROPOSAL.capabilities, twin_socket: { supported: true } } }),
  check: (reply) => {
    const twin = readVersion(reply)?.capabilities?.twin_socket;
    if (twin === undefined || isOff(twin)) return undefined;
    const index = (twin as { fd_index?: unknown }).fd_index;
    if (typeof index !== 'number') return 'a twin socket without fd_index';
    return index in reply.fds ? undefined : `fd_index ${index} of ${reply.fds.length} descriptors`;
  },
});

export const VERSION_RULES: readonly ServerRule[] = [
  answers({
    name: 'version-major',
    section,
    isFresh,
    sent: 'version 0.2',
    expected: 'a reply with major version 0',
    ask: propose(PROPOSAL),
    check: (reply) => {
      const major = readVersion(reply)?.major;
      return major === 0 ? undefined : `major version ${major}`;
    },
  }),
  answers({
    name: 'version-minor-0',
    section,
    isFresh,
    sent: 'version 0.0',
    expected: 'a reply with version 0.0',
    ask: propose(PROPOSAL, 0),
    check: minorAtMost(0),
  }),
  answers({
    name: 'version-minor-of-the-future',
    section,
    isFresh,
    sent: `version 0.${LATEST}`,
    expected: 'a reply with a minor version that exists',
    ask: propose(PROPOSAL, LATEST),
    check: minorAtMost(LATEST - 1),
  }),
  answers({
    name: 'version-data-of-the-reply',
    section,
    isFresh,
    sent: 'version 0.2 with all capabilities',
    expected: 'a reply without version data, or with a JSON object that ends with a zero byte',
    ask: propose(PROPOSAL),
    check: (reply) => readVersion(reply)?.problem,
  }),
  answers({
    name: 'version-without-data',
    section,
    isFresh,
    sent: 'version 0.2 without version data',
    expected: 'a reply',
    ask: propose(undefined),
  }),
  answers({
    name: 'version-without-capabilities',
    section,
    isFresh,
    sent: 'version data without capabilities: {}',
    expected: 'a reply',
    ask: propose({}),
  }),
  answers({
    name: 'version-unknown-capability',
    section,
    isFresh,
    sent: 'version data with a capability that does not exist',
    expected: 'a reply without it',
    ask: propose({ capabilities: { ...PROPOSAL.capabilities, from_the_future: { level: 9 } } }),
    check: (reply) =>
      features(reply).includes('from_the_future') ? 'it claims to have that capability' : undefined,
  }),
  answers({
    name: 'version-subset',
    section,
    isFresh,
    sent: 'version data without write_multiple, twin_socket and others',
    expected: 'a reply whose capabilities are a subset of those proposed',
    ask: propose({ capabilities: { max_msg_fds: 16 } }),
    check: (reply) => {
      const more = features(reply);
      return more.length === 0 ? undefined : `it adds ${more.join(', ').slice(0, 100)}`;
    },
  }),
  twinSocket,
  otherMajor,
  secondVersion,
  refuses({
    name: 'version-first',
    section,
    isFresh,
    sent: 'VFIO_USER_DEVICE_GET_INFO as the first message',
    ask: { command: VFIO_USER_DEVICE_GET_INFO, payload: question(16) },
  }),
  refuses({
    name: 'version-too-short',
    section,
    isFresh,
    sent: 'a payload of 2 bytes',
    ask: { command, payload: words(0).subarray(0, 2) },
  }),
  wrong('version-data-no-json', 'bytes that are no JSON', '{"capabilities": [[['),
  wrong('version-data-no-object', 'a number in place of an object', 7),
  wrong('version-capabilities-no-object', 'a list of capabilities', { capabilities: ['max_msg_fds'] }),
  refuses({
    name: 'version-data-without-zero',
    section,
    isFresh,
    sent: 'version data that does not end with a zero byte',
    ask: { command, payload: version(PROPOSAL, 0, 2, '') },
  }),
  wrong('version-max-msg-fds-no-number', 'max_msg_fds "many"', { capabilities: { max_msg_fds: 'many' } }),
  wrong('version-max-msg-fds-negative', 'max_msg_fds -1', { capabilities: { max_msg_fds: -1 } }),
  wrong('version-max-data-xfer-size-no-number', 'max_data_xfer_size []', {
    capabilities: { max_data_xfer_size: [] },
  }),
  wrong('version-max-data-xfer-size-negative', 'max_data_xfer_size -4096', {
    capabilities: { max_data_xfer_size: -4096 },
  }),
  wrong('version-max-dma-maps-no-number', 'max_dma_maps {}', { capabilities: { max_dma_maps: {} } }),
  wrong('version-pgsizes-no-number', 'pgsizes "4k"', { capabilities: { pgsizes: '4k' } }),
  unclaimed('version-write-multiple-no-boolean', 'write_multiple', 'yes'),
  unclaimed('version-twin-socket-no-object', 'twin_socket', true),
  survives({
    name: 'version-data-long',
    section,
    isFresh,
    sent: `version data of ${LONG} bytes`,
    ask: propose({ capabilities: PROPOSAL.capabilities, padding: 'x'.repeat(LONG) }),
  }),
  survives({
    name: 'version-data-deep',
    section: 'Security Considerations',
    isFresh,
    sent: 'version data of 20000 nested lists',
    ask: propose(`{"capabilities":${'['.repeat(20_000)}${']'.repeat(20_000)}}`),
  }),
];

/** Rules of the negotiation, for clients: what the server's reply may be, and may not. */
import { errno } from '../../../sys/errno.js';
import { FLAG_ERROR, TYPE_REPLY, VFIO_USER_VERSION } from '../protocol.js';
import type { Said } from './client-play.js';
import type { ClientRule } from './client-rule.js';
import { ending, ignores, survives, twisting } from './client-rule.js';
import { version } from './payloads.js';
import { failed, inapplicable } from './report.js';

const SECTION = 'VFIO_USER_VERSION';

/** A reply with this version and this data. */
const says = (data: unknown, major = 0, end = '\0') =>
  twisting(VFIO_USER_VERSION, ({ payload }) => [{ payload: version(data, major, minorOf(payload), end) }]);
const minorOf = (payload: Uint8Array): number => (payload[2] as number) | ((payload[3] as number) << 8);

/** A reply after which a client can go on, and must. */
const goesOn = (name: string, sent: string, twist: ReturnType<typeof says>): ClientRule => ({
  name,
  section: SECTION,
  sent,
  expected: 'further commands',
  options: { twist },
  async play(play) {
    await play.settle();
    if (!play.hasTwisted) return inapplicable('it sends no VFIO_USER_VERSION');
    if (play.end?.kind === 'garbage') return failed(play.describe(play.end));
    // A client that has given up may still have its socket open.
    if (!play.audit.has('version-once')) return failed('no further command');
    return ending(play);
  },
});

const odd = (name: string, what: string, data: unknown, end?: string): ClientRule =>
  survives({ name, section: SECTION, sent: `a reply with ${what}` }, { twist: says(data, 0, end) });

/** A twin socket that is announced to a client that wants one. */
const oddTwin = (name: string, what: string, index: unknown): ClientRule => ({
  ...survives(
    { name, section: SECTION, sent: `a reply with a twin socket ${what}` },
    {
      twist(reply, asked, play) {
        const twin = play.proposal?.capabilities?.twin_socket as { supported?: unknown } | null | undefined;
        if (asked.command !== VFIO_USER_VERSION || twin?.supported !== true) return undefined;
        const capabilities = { twin_socket: { supported: true, fd_index: index } };
        return [{ payload: version({ capabilities }, 0, minorOf(reply.payload)) }];
      },
    },
  ),
});

const refusal: Partial<Said> = {
  flags: TYPE_REPLY | FLAG_ERROR,
  errno: errno.EINVAL,
  payload: new Uint8Array(0),
};

export const CLIENT_VERSION_RULES: readonly ClientRule[] = [
  goesOn(
    'version-reply-minor-0',
    'a reply with version 0.0',
    twisting(VFIO_USER_VERSION, ({ payload }) => {
      const lower = payload.slice();
      lower.fill(0, 2, 4);
      return [{ payload: lower }];
    }),
  ),
  goesOn('version-reply-without-data', 'a reply without version data', says(undefined)),
  goesOn('version-reply-without-capabilities', 'a reply with version data {}', says({})),
  ignoring('version-refused', 'error EINVAL', () => [refusal]),
  ignoring('version-reply-other-major', 'a reply with version 1.0', ({ payload }) => [
    { payload: Uint8Array.from([1, 0, 0, 0, ...payload.subarray(4)]) },
  ]),
  ignoring(
    'version-reply-minor-above',
    'a reply with a later minor version than proposed',
    ({ payload }, asked) => {
      const minor = Math.min(minorOf(asked.payload) + 1, 0xffff);
      return [{ payload: Uint8Array.from([0, 0, minor & 0xff, minor >>> 8, ...payload.subarray(4)]) }];
    },
  ),
  ignoring('version-reply-too-short', 'a reply of 2 bytes', ({ payload }) => [
    { payload: payload.slice(0, 2) },
  ]),
  odd('version-reply-no-json', 'bytes that are no JSON', '{"capabilities"'),
  odd('version-reply-no-object', 'a number in place of an object', 17),
  odd('version-reply-capabilities-no-object', 'a list of capabilities', { capabilities: [1] }),
  odd(
    'version-reply-without-zero',
    'version data that does not end with a zero byte',
    { capabilities: {} },
    '',
  ),
  odd('version-reply-deep', '20000 nested lists', '['.repeat(20_000) + ']'.repeat(20_000)),
  odd('version-reply-long', 'version data of 60000 bytes', { capabilities: { name: 'x'.repeat(60_000) } }),
  odd('version-reply-unknown-capability', 'a capability that nobody has proposed', {
    capabilities: { nobody_has_proposed: true },
  }),
  ...(
    [
      ['max-msg-fds', 'max_msg_fds', ['many', -1, 0, 2 ** 31]],
      ['max-data-xfer-size', 'max_data_xfer_size', [[], -4096, 0, 1e300]],
      ['max-dma-maps', 'max_dma_maps', [{}, -1, 0]],
      ['pgsizes', 'pgsizes', ['4k', 4095, 0]],
    ] as const
  ).flatMap(([name, capability, values]) =>
    values.map((value) => {
      const text = typeof value === 'number' && Math.abs(value) > 1e20 ? 'huge' : nameOf(value);
      const what = `${capability} ${JSON.stringify(value)}`;
      return odd(`version-reply-${name}-${text}`, what, { capabilities: { [capability]: value } });
    }),
  ),
  oddTwin('twin-without-descriptor', 'and no descriptor', 0),
  oddTwin('twin-index-outside', 'whose descriptor is number 63 of none', 63),
  oddTwin('twin-index-no-number', 'whose fd_index is a text', 'first'),
];

/** In a rule's name. */
function nameOf(value: unknown): string {
  if (typeof value !== 'number') return 'no-number';
  return value < 0 ? 'negative' : value === 2 ** 31 ? 'huge' : `${value}`;
}

function ignoring(name: string, sent: string, twist: Parameters<typeof ignores>[2]): ClientRule {
  const rule = ignores({ name, section: SECTION, sent }, VFIO_USER_VERSION, twist);
  return { ...rule, expected: 'no further command' };
}

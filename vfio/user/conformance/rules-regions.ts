/** Rules of access to regions, and of the device's reset. */
import {
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../uapi.js';
import { encodeCommand } from '../message.js';
import {
  FLAG_NO_REPLY,
  HEADER_BYTES,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_REGION_WRITE_MULTI,
} from '../protocol.js';
import { access, writeMulti } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import { readable, type ServerFacts } from './server-facts.js';
import { type Ask, answers, type Play, refuses, type ServerRule, survives } from './server-rule.js';
import { isSuccess, type Reply } from './wire.js';

const READ = 'VFIO_USER_REGION_READ';
const WRITE = 'VFIO_USER_REGION_WRITE';
const MULTI = 'VFIO_USER_REGION_WRITE_MULTI';
const ACCESS_BYTES = 16;
const NO_REGION = 'no region can be read';
const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;
/** PCI_INTERRUPT_LINE: a register of every PCI device that keeps what software writes, and does nothing. */
const LINE = 0x3c;

/** Asks about a region that can be read. */
const onRegion =
  (ask: (index: number, size: number, facts: ServerFacts) => Ask) =>
  (facts: ServerFacts): Ask | string => {
    const region = readable(facts);
    return region === undefined ? NO_REGION : ask(region.index, region.size, facts);
  };

const read = (region: number, offset: number | bigint, count: number): Ask => ({
  command: VFIO_USER_REGION_READ,
  payload: access(region, offset, count),
});
const write = (
  region: number,
  offset: number | bigint,
  count: number,
  data: readonly number[] = new Array<number>(count).fill(0),
): Ask => ({ command: VFIO_USER_REGION_WRITE, payload: access(region, offset, count, data) });

/** A reply that begins with the access as it was asked for, and has so many bytes of data. */
function echo(asked: Uint8Array, bytes: number): (reply: Reply) => string | undefined {
  return ({ payload }) => {
    if (payload.length !== ACCESS_BYTES + bytes) return `a payload of ${payload.length} bytes`;
    const is = Buffer.compare(payload.subarray(0, ACCESS_BYTES), asked.subarray(0, ACCESS_BYTES)) === 0;
    return is ? undefined : 'another offset, region or count than that of the request';
  };
}

/** The rules that reads and writes have in common. */
function both(
  section: string,
  prefix: string,
  make: (region: number, offset: number | bigint, count: number) => Ask,
  right: number,
  verb: string,
): readonly ServerRule[] {
  const wrong = (name: string, sent: string, ask: Parameters<typeof onRegion>[0]): ServerRule =>
    refuses({ name: `${prefix}-${name}`, section, sent, ask: onRegion(ask) });
  return [
    wrong('behind-the-end', 'an offset that is the size of the region', (index, size) =>
      make(index, size, 4),
    ),
    wrong('across-the-end', 'the last 2 bytes of a region and 2 more', (index, size) =>
      make(index, size - 2, 4),
    ),
    wrong('offset-overflows', 'the offset 2^64 - 2, count 4', (index) =>
      make(index, 0xffff_ffff_ffff_fffen, 4),
    ),
    wrong('region-outside', 'the region num_regions', (_index, _size, { numRegions }) =>
      make(numRegions, 0, 4),
    ),
    wrong('region-far-outside', 'the region 0xffffffff', () => make(0xffff_ffff, 0, 4)),
    refuses({
      name: `${prefix}-region-without-bytes`,
      section,
      sent: 'a region of size 0',
      ask: ({ numRegions, regions }) => {
        const known = regions.map(({ index }) => index);
        const empty = Array.from({ length: Math.min(numRegions, 9) }, (_, i) => i).find(
          (i) => !known.includes(i),
        );
        return empty === undefined ? 'all regions have bytes' : make(empty, 0, 4);
      },
    }),
    refuses({
      name: `${prefix}-without-right`,
      section: 'VFIO_USER_DEVICE_GET_REGION_INFO',
      sent: `a ${verb} of a region that its flags do not allow`,
      ask: ({ regions }) => {
        const closed = regions.find(({ flags, size }) => (flags & right) === 0 && size >= 4);
        return closed === undefined ? `all regions allow a ${verb}` : make(closed.index, 0, 4);
      },
    }),
    survives({
      name: `${prefix}-nothing`,
      section,
      sent: 'count 0',
      ask: onRegion((index) => make(index, 0, 0)),
    }),
  ];
}

/** Writes PCI_INTERRUPT_LINE. */
const setLine = ({ wire }: Play, value: number) =>
  wire.ask(VFIO_USER_REGION_WRITE, access(CONFIG, LINE, 1, [value]));

async function line({ wire }: Play): Promise<number | undefined> {
  const heard = await wire.ask(VFIO_USER_REGION_READ, access(CONFIG, LINE, 1));
  return isSuccess(heard) ? heard.reply.payload[ACCESS_BYTES] : undefined;
}

const NO_LINE = 'the device does not keep PCI_INTERRUPT_LINE';

/** A rule that needs a register which keeps what is written. */
const withLine = (row: Omit<ServerRule, 'play'>, play: (play: Play) => Promise<Outcome>): ServerRule => ({
  ...row,
  async play(on) {
    const written = on.facts.regions.some(({ index }) => index === CONFIG)
      ? await setLine(on, 0x11)
      : undefined;
    if (written === undefined || !isSuccess(written) || (await line(on)) !== 0x11)
      return inapplicable(NO_LINE);
    return play(on);
  },
});

const RESET = 'VFIO_USER_DEVICE_RESET';

const RESET_RULES: readonly ServerRule[] = [
  answers({
    name: 'reset',
    section: RESET,
    sent: 'VFIO_USER_DEVICE_RESET',
    expected: 'a reply without payload',
    ask: ({ hasReset }) =>
      hasReset ? { command: VFIO_USER_DEVICE_RESET } : 'the device has no VFIO_DEVICE_FLAGS_RESET',
    check: ({ size }) => (size === HEADER_BYTES ? undefined : `${size - HEADER_BYTES} bytes of payload`),
  }),
  {
    name: 'reset-and-use',
    section: RESET,
    sent: 'VFIO_USER_DEVICE_RESET, and a read of a region',
    expected: 'replies to both',
    async play(play) {
      const region = readable(play.facts);
      if (!play.facts.hasReset) return inapplicable('the device has no VFIO_DEVICE_FLAGS_RESET');
      if (region === undefined) return inapplicable(NO_REGION);
      const reset = await play.wire.ask(VFIO_USER_DEVICE_RESET);
      if (!isSuccess(reset)) return failed(play.describe(reset));
      const heard = await play.wire.ask(VFIO_USER_REGION_READ, access(region.index, 0, 4));
      return (isSuccess(heard) ? passed : failed)(play.describe(heard));
    },
  },
  refuses({
    name: 'reset-without-right',
    section: 'VFIO_USER_DEVICE_GET_INFO',
    sent: 'VFIO_USER_DEVICE_RESET of a device without VFIO_DEVICE_FLAGS_RESET',
    ask: ({ hasReset }) => (hasReset ? 'the device can be reset' : { command: VFIO_USER_DEVICE_RESET }),
  }),
];

const NO_MULTI = 'the server does not announce write_multiple';
/** Several writes at once; not applicable to a server that does not announce them. */
const multi =
  (payload: Uint8Array) =>
  ({ hasWriteMultiple }: ServerFacts): Ask | string =>
    hasWriteMultiple ? { command: VFIO_USER_REGION_WRITE_MULTI, payload } : NO_MULTI;
const toLine = (data: number, count = 1) => ({ region: CONFIG, offset: LINE, count, data });

const MULTI_RULES: readonly ServerRule[] = [
  withLine(
    {
      name: 'write-multi',
      section: MULTI,
      sent: 'two writes of one register',
      expected: 'a reply with wr_cnt 2; the register has the second value',
    },
    async (play) => {
      if (!play.facts.hasWriteMultiple) return inapplicable(NO_MULTI);
      const heard = await play.wire.ask(
        VFIO_USER_REGION_WRITE_MULTI,
        writeMulti([toLine(0x22), toLine(0x33)]),
      );
      if (!isSuccess(heard)) return failed(play.describe(heard));
      const { payload } = heard.reply;
      if (payload.length !== 8) return failed(`a payload of ${payload.length} bytes`);
      if (payload[0] !== 2) return failed(`wr_cnt ${payload[0]}`);
      const value = await line(play);
      return (value === 0x33 ? passed : failed)(`wr_cnt 2, and 0x${value?.toString(16)} in the register`);
    },
  ),
  refuses({
    name: 'write-multi-too-long',
    section: MULTI,
    sent: 'a write of 9 bytes, of which the format has room for 8',
    ask: multi(writeMulti([toLine(0, 9)])),
  }),
  refuses({
    name: 'write-multi-missing',
    section: MULTI,
    sent: 'wr_cnt 2 with one write',
    ask: multi(writeMulti([toLine(0x22)], 2)),
  }),
  refuses({
    name: 'write-multi-huge',
    section: 'Security Considerations',
    sent: 'wr_cnt 2^48 with one write',
    ask: multi(writeMulti([toLine(0x22)], 2 ** 48)),
  }),
];

export const REGION_RULES: readonly ServerRule[] = [
  {
    name: 'region-read',
    section: READ,
    sent: 'a read of 4 bytes',
    expected: 'a reply with offset, region and count of the request, and 4 bytes',
    async play(play) {
      const region = readable(play.facts);
      if (region === undefined) return inapplicable(NO_REGION);
      const payload = access(region.index, 0, 4);
      const heard = await play.wire.ask(VFIO_USER_REGION_READ, payload);
      if (!isSuccess(heard)) return failed(play.describe(heard));
      const problem = echo(payload, 4)(heard.reply);
      return problem === undefined ? passed(play.describe(heard)) : failed(problem);
    },
  },
  ...both(READ, 'region-read', read, VFIO_REGION_INFO_FLAG_READ, 'read'),
  refuses({
    name: 'region-read-too-much',
    section: READ,
    sent: 'a count above max_data_xfer_size',
    ask: onRegion((index, _size, { maxDataXferSize }) =>
      read(index, 0, Math.min(maxDataXferSize + 1, 0xffff_ffff)),
    ),
  }),
  refuses({
    name: 'region-read-too-short',
    section: READ,
    sent: 'a payload of 12 bytes',
    ask: onRegion((index) => ({
      command: VFIO_USER_REGION_READ,
      payload: access(index, 0, 4).subarray(0, 12),
    })),
  }),
  withLine(
    {
      name: 'region-write',
      section: WRITE,
      sent: 'a write of one register',
      expected: 'a reply with offset, region and count of the request, without data',
    },
    async (play) => {
      const payload = access(CONFIG, LINE, 1, [0x44]);
      const heard = await play.wire.ask(VFIO_USER_REGION_WRITE, payload);
      if (!isSuccess(heard)) return failed(play.describe(heard));
      const problem = echo(payload, 0)(heard.reply);
      return problem === undefined ? passed(play.describe(heard)) : failed(problem);
    },
  ),
  withLine(
    {
      name: 'region-write-no-reply',
      section: 'Command Concurrency',
      sent: 'a write of a register with No_reply, and a read of it without waiting',
      expected: 'one reply, with what was written',
    },
    async (play) => {
      const written = encodeCommand(
        1,
        VFIO_USER_REGION_WRITE,
        access(CONFIG, LINE, 1, [0x66]),
        FLAG_NO_REPLY,
      );
      const asked = encodeCommand(2, VFIO_USER_REGION_READ, access(CONFIG, LINE, 1));
      await play.wire.send(Buffer.concat([written, asked]));
      const heard = await play.wire.hear();
      if (!isSuccess(heard)) return failed(play.describe(heard));
      const value = heard.reply.payload[ACCESS_BYTES];
      return (value === 0x66 ? passed : failed)(`0x${value?.toString(16) ?? ''} in the first reply`);
    },
  ),
  ...both(WRITE, 'region-write', write, VFIO_REGION_INFO_FLAG_WRITE, 'write'),
  refuses({
    name: 'region-write-data-missing',
    section: WRITE,
    sent: 'count 4 with 1 byte',
    ask: onRegion(() => write(CONFIG, LINE, 4, [0])),
  }),
  refuses({
    name: 'region-write-data-more',
    section: WRITE,
    sent: 'count 1 with 5 bytes',
    ask: onRegion(() => write(CONFIG, LINE, 1, [0, 0, 0, 0, 0])),
  }),
  refuses({
    name: 'region-write-too-short',
    section: WRITE,
    sent: 'a payload of 8 bytes',
    ask: onRegion((index) => ({
      command: VFIO_USER_REGION_WRITE,
      payload: access(index, 0, 0).subarray(0, 8),
    })),
  }),
  ...MULTI_RULES,
  ...RESET_RULES,
];

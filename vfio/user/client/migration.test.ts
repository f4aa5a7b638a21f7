/** What a client asks of a server about a device’s features, and the stream of its state. */
import { describe, expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { VFIO_USER_MIG_DATA_READ as DATA_READ, VFIO_USER_MIG_DATA_WRITE as DATA_WRITE } from '../protocol.js';
import { FakeConnection, type Sent } from '../testing/fake-connection.js';
import { bytes } from '../testing/peers/session.js';
import { UserFeatures } from './feature.js';

const [GET, SET, PROBE] = [1 << 16, 1 << 17, 1 << 18];
const [MIGRATION, STATE, STOP, REPORT, DATA_SIZE] = [1, 2, 7, 8, 9];
const [STOPPED, RUNNING, STOP_COPY, RESUMING, PRE_COPY] = [1, 2, 3, 4, 6];

const flagsOf = ({ payload }: Sent) => new DataView(Uint8Array.from(payload).buffer).getUint32(4, true);
const refusal = (code: number) => new SysError({ call: 'ask', target: 'server', errno: code });

/** A server with a state, that refuses what `refuse` returns an error for. */
function served(refuse: (flags: number) => Error | undefined = () => undefined) {
  let state = RUNNING;
  /** What a read gets. */
  const left = { bytes: 3 };
  const connection = new FakeConnection((sent) => {
    if (sent.command === DATA_READ) return bytes(8 + left.bytes, left.bytes, [1, 2, 3].slice(0, left.bytes));
    if (sent.command === DATA_WRITE) return undefined;
    const flags = flagsOf(sent);
    const error = refuse(flags);
    if (error !== undefined) throw error;
    if (flags === (STATE | SET)) state = sent.payload[8] as number;
    if ((flags & 0xffff) === REPORT && (flags & PROBE) === 0) {
      const view = new DataView(Uint8Array.from(sent.payload).buffer);
      const size = view.getUint32(0, true);
      return Uint8Array.from(
        Buffer.concat([Uint8Array.from(sent.payload), new Uint8Array(size - 32).fill(1)]),
      );
    }
    return bytes(16, flags, (flags & 0xffff) === STATE ? state : 5, 0);
  });
  const features = new UserFeatures(connection.it);
  const asked = () => connection.take().map(flagsOf);
  return {
    connection,
    features,
    asked,
    left,
    set: (to: number) => features.feature(STATE | SET, { deviceState: to }),
  };
}

test.each<[string, number, readonly number[], RegExp | object]>([
  ['a probe is passed on', MIGRATION | GET | PROBE, [MIGRATION | GET | PROBE], {}],
  ['flags are read', MIGRATION | GET, [MIGRATION | GET], { migrationFlags: 5 }],
  ['a size is read', DATA_SIZE | GET, [DATA_SIZE | GET], { stopCopyLength: 5n }],
  ['logging is stopped', STOP | SET, [STOP | SET], {}],
  ['a state is read', STATE | GET, [STATE | GET], { deviceState: RUNNING }],
  [
    'a feature without structure is probed, and ENOTTY',
    3 | GET,
    [3 | GET | PROBE],
    /ENOTTY\n.*no structure for feature 3/,
  ],
  ['without GET or SET it is probed, and EINVAL', MIGRATION, [MIGRATION | PROBE], /EINVAL\n.*GET or SET/],
  [
    'a report without a range is probed, and EINVAL',
    REPORT | GET,
    [REPORT | GET | PROBE],
    /EINVAL\n.*no range/,
  ],
  ['GET and SET at once are EINVAL', MIGRATION | GET | SET, [], /EINVAL/],
])('%s', (_what, flags, sent, expected) => {
  const { features, asked } = served();
  const use = () => features.feature(flags, {});
  if (expected instanceof RegExp) expect(use).toThrowError(expected);
  else expect(use()).toEqual(expected);
  expect(asked()).toEqual(sent);
});

test('a server of version 0.0 is not asked, one of 0.1 is', () => {
  const { connection, features, asked } = served();
  connection.minor = 0;
  expect(() => features.feature(MIGRATION | GET, {})).toThrowError(/ENOTTY\n.*version 0\.0 has no features/);
  expect(asked()).toEqual([]);
  connection.minor = 1;
  features.feature(MIGRATION | GET, {});
  expect(asked()).toEqual([MIGRATION | GET]);
});

test.each<[string, number | undefined, RegExp, number]>([
  ['refuses to be probed for it (EINVAL)', errno.EINVAL, /ENOTTY\n.*does not know the feature/, 2],
  ['refuses to be probed for it (ENOTTY)', errno.ENOTTY, /ENOTTY\n.*does not know the feature/, 2],
  ['fails at the probe otherwise', errno.EIO, /EIO/, 2],
  ['has it', undefined, /^ask on server: EINVAL/, 2],
])('EINVAL of a server that %s', (_what, code, error, count) => {
  const { features, asked } = served((flags) => {
    if ((flags & PROBE) === 0) return refusal(errno.EINVAL);
    return code === undefined ? undefined : refusal(code);
  });
  expect(() => features.feature(MIGRATION | GET, {})).toThrowError(error);
  expect(asked()).toEqual([MIGRATION | GET, MIGRATION | PROBE].slice(0, count));
});

test('an errno other than EINVAL is the device’s own, and is not probed for', () => {
  const { features, asked } = served(() => refusal(errno.EBUSY));
  expect(() => features.feature(MIGRATION | GET, {})).toThrowError(/EBUSY/);
  expect(asked()).toEqual([MIGRATION | GET]);
});

describe('a stream', () => {
  test('is there in the states that have data, one for all that save', () => {
    const { set } = served();
    expect(set(STOPPED)).toEqual({ deviceState: STOPPED });
    const first = set(PRE_COPY).data;
    expect(first).toBeDefined();
    expect(set(STOP_COPY).data).toBeUndefined();
    expect(first?.read(new Uint8Array(3))).toBe(3);
    const second = set(RESUMING).data;
    expect(() => first?.read(new Uint8Array(3))).toThrowError(/ENODEV\n.*has left the state/);
    expect(set(RESUMING).data).toBeUndefined();
    second?.write(Uint8Array.of(1));
    expect(set(RUNNING)).toEqual({ deviceState: RUNNING });
    expect(() => second?.write(Uint8Array.of(1))).toThrowError(/ENODEV/);
  });

  test('stays when the server refuses the next state', () => {
    let isRefusing = false;
    const { set } = served((flags) =>
      isRefusing && flags === (STATE | SET) ? refusal(errno.EBUSY) : undefined,
    );
    const data = set(STOP_COPY).data;
    isRefusing = true;
    expect(() => set(RUNNING)).toThrowError(/EBUSY/);
    expect(data?.read(new Uint8Array(3))).toBe(3);
  });

  test('that is closed is EBADF, and ends with the features’ end', () => {
    const { set, features } = served();
    const closed = set(STOP_COPY).data;
    closed?.[Symbol.dispose]();
    for (const use of [() => closed?.read(new Uint8Array(1)), () => closed?.write(new Uint8Array(1))])
      expect(use).toThrowError(/^VFIO_USER_MIG_DATA_(READ|WRITE) on migration data of .*EBADF$/);
    set(RUNNING);
    const ended = set(RESUMING).data;
    features.end();
    expect(() => ended?.write(new Uint8Array(1))).toThrowError(/ENODEV/);
    features.end();
  });

  test('reads what the server takes at once, and writes in such pieces', () => {
    const { connection, set } = served();
    connection.capabilities = { ...connection.capabilities, maxDataXferSize: 4 };
    const out = set(STOP_COPY).data;
    connection.take();
    const data = new Uint8Array(9);
    expect([out?.read(data), [...data]]).toEqual([3, [1, 2, 3, 0, 0, 0, 0, 0, 0]]);
    expect(out?.read(data.subarray(0, 3))).toBe(3);
    expect(() => out?.read(data.subarray(0, 2))).toThrowError(/EINVAL\n.*3 bytes for 2/);
    out?.write(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    out?.write(Uint8Array.of(1, 2, 3, 4, 5));
    expect(connection.take().map(({ payload }) => payload)).toEqual([
      [...bytes(12, 4)],
      [...bytes(11, 3)],
      [...bytes(10, 2)],
      [...bytes(12, 4, [1, 2, 3, 4])],
      [...bytes(12, 4, [5, 6, 7, 8])],
      [...bytes(12, 4, [1, 2, 3, 4])],
      [...bytes(9, 1, [5])],
    ]);
  });
});

describe('a report', () => {
  const GIB = 1n << 30n;
  const PAGE = 4096n;

  test.each<[string, bigint, readonly (readonly [bigint, bigint])[]]>([
    ['of no bytes is one question', 0n, [[0x1000n, 0n]]],
    ['of 4 GiB is one question', 4n * GIB, [[0x1000n, 4n * GIB]]],
    [
      'of a page more is two',
      4n * GIB + PAGE,
      [
        [0x1000n, 4n * GIB],
        [0x1000n + 4n * GIB, PAGE],
      ],
    ],
  ])('%s', (_what, length, pieces) => {
    const { connection, features } = served();
    const bitmap = new Uint8Array(Number((length / PAGE + 63n) / 64n) * 8);
    const report = { iova: iova(0x1000n), length, pageSize: PAGE, bitmap };
    expect(features.feature(REPORT | GET, { report })).toEqual({});
    expect(connection.take().map(({ payload }) => payload.slice(8))).toEqual(
      pieces.map(([at, size]) => [...bytes(at, size, PAGE)]),
    );
    expect(bitmap.every((byte) => byte === 1)).toBe(true);
  });

  test('of pages of no power of two is EINVAL, after a probe', () => {
    const { features, asked } = served();
    const report = { iova: iova(0n), length: 4096n, pageSize: 5000n, bitmap: new Uint8Array(8) };
    expect(() => features.feature(REPORT | GET, { report })).toThrowError(/EINVAL\n.*power of two/);
    expect(asked()).toEqual([REPORT | GET | PROBE]);
  });
});

test('in PRE_COPY, an empty reply is ENOMSG; in STOP_COPY it is the end; the pre-copy info is EINVAL there, and unknown here', () => {
  const { features, left, set } = served();
  using data = set(PRE_COPY).data;
  const read = () => data?.read(new Uint8Array(3));
  expect(read()).toBe(3);
  left.bytes = 0;
  expect(read).toThrowError(/read on migration data of .*: ENOMSG/);
  expect(() => data?.precopyInfo()).toThrowError(/VFIO_MIG_GET_PRECOPY_INFO.*ENOTTY\n.*read until ENOMSG/);
  left.bytes = 2;
  expect(read()).toBe(2);
  expect(set(STOP_COPY).data).toBeUndefined();
  left.bytes = 0;
  expect(read()).toBe(0);
  expect(() => data?.precopyInfo()).toThrowError(/EINVAL/);
  features.end();
  expect(() => data?.precopyInfo()).toThrowError(/ENODEV/);
});

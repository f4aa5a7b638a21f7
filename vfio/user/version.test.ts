import { describe, expect, test } from 'vitest';
import { Writer } from './message.js';
import { type Capabilities, decodeVersion, encodeVersion } from './version.js';

const capabilities: Capabilities = {
  maxMsgFds: 8,
  maxDataXferSize: 4096,
  maxDmaMaps: 10,
  pgsizes: 4096,
  hasWriteMultiple: true,
  twinSocket: undefined,
};

/** A payload with this JSON, or text that is to be JSON, and a zero byte. */
function payload(json: unknown, major = 0, minor = 1, end = '\0'): Uint8Array {
  const text = `${typeof json === 'string' ? json : JSON.stringify({ capabilities: json })}${end}`;
  return new Writer(4 + text.length).u16(major).u16(minor).data(Buffer.from(text)).bytes;
}
const decoded = (json: unknown): Capabilities => decodeVersion(payload(json)).capabilities;

test('a version is decoded as it was encoded, by both sides', () => {
  for (const isReply of [false, true]) {
    const encoded = encodeVersion({ major: 0, minor: 2, capabilities }, isReply);
    expect(encoded.at(-1)).toBe(0);
    expect(encoded.indexOf(0, 4)).toBe(encoded.length - 1);
    expect(decodeVersion(encoded, !isReply)).toEqual({ major: 0, minor: 2, capabilities });
  }
});

test('a twin socket is announced by a request, and its descriptor by the reply', () => {
  const twin = { ...capabilities, twinSocket: { fdIndex: 3 } };
  const version = { major: 0, minor: 1, capabilities: twin };
  expect(decodeVersion(encodeVersion(version, false)).capabilities.twinSocket).toEqual({
    fdIndex: undefined,
  });
  expect(decodeVersion(encodeVersion(version, true)).capabilities.twinSocket).toEqual({ fdIndex: 3 });
  expect(decoded({ twin_socket: { supported: false, fd_index: 1 } }).twinSocket).toBe(undefined);
  expect(decoded({ twin_socket: null }).twinSocket).toBe(undefined);
  expect(decoded({ twin_socket: { supported: true, fd_index: '1' } }).twinSocket).toEqual({
    fdIndex: undefined,
  });
});

test.each([
  { what: 'no JSON', bytes: payload('', 0, 1, '') },
  { what: 'a zero byte', bytes: payload('') },
  { what: 'an empty object', bytes: payload('{}') },
  { what: 'no capabilities', bytes: payload({}) },
  { what: 'others only', bytes: payload({ colour: 'red' }) },
])('with $what, a peer has the defaults of the specification', ({ bytes }) => {
  expect(decodeVersion(bytes).capabilities).toEqual({
    maxMsgFds: 1,
    maxDataXferSize: 1 << 20,
    maxDmaMaps: 65_535,
    pgsizes: 4096,
    hasWriteMultiple: false,
    twinSocket: undefined,
  });
});

test('text behind a zero byte does not count; a request has to end with one', () => {
  expect(decodeVersion(payload('{}\0nonsense')).minor).toBe(1);
  expect(decodeVersion(payload('{}', 0, 1, ''), false).minor).toBe(1);
  expect(() => decodeVersion(payload('{}', 0, 1, ''), true)).toThrow(/EINVAL\n.*zero byte/);
  expect(decodeVersion(payload('{}'), true).minor).toBe(1);
  expect(decodeVersion(payload('', 0, 1, ''), true).minor).toBe(1);
});

test('another major version is ENOTSUP, whatever its minor', () => {
  expect(() => decodeVersion(payload('{}', 1, 0))).toThrow(/ENOTSUP\n.*version 1\.0/);
  expect(decodeVersion(payload('{}', 0, 0)).minor).toBe(0);
  expect(() => decodeVersion(new Uint8Array(3))).toThrow(/EINVAL/);
});

describe('numbers', () => {
  test.each([
    {
      name: 'max_msg_fds',
      field: 'maxMsgFds',
      good: [0, 0x7fff_ffff],
      bad: [-1, 0x8000_0000, 1.5, '1'],
    },
    { name: 'max_dma_maps', field: 'maxDmaMaps', good: [0, 2 ** 53 - 1], bad: [-1, 2 ** 53, 0.5, true] },
    { name: 'max_data_xfer_size', field: 'maxDataXferSize', good: [1, 64 << 20], bad: [0, -1, 2 ** 53, [1]] },
    { name: 'pgsizes', field: 'pgsizes', good: [4096, 0x4020_1000], bad: [1, 4095, 4097, 2 ** 53, -4096] },
  ] as const)('$name', ({ name, field, good, bad }) => {
    for (const value of good) expect(decoded({ [name]: value })[field]).toBe(value);
    for (const value of bad) {
      expect(() => decoded({ [name]: value }), String(value)).toThrow(/^VFIO_USER_VERSION on .*EINVAL/);
    }
  });

  test('more data in one message than this side ever sends is cut, and pages of 0 are the default', () => {
    expect(decoded({ max_data_xfer_size: (64 << 20) + 1 }).maxDataXferSize).toBe(64 << 20);
    expect(decoded({ pgsizes: 0 }).pgsizes).toBe(4096);
  });

  test('only true is a flag that is set', () => {
    expect(decoded({ write_multiple: true }).hasWriteMultiple).toBe(true);
    for (const value of [false, 1, 'true']) {
      expect(decoded({ write_multiple: value }).hasWriteMultiple).toBe(false);
    }
  });
});

test.each([
  '{',
  '[]',
  '1',
  'null',
  '"x"',
  '{"capabilities":[]}',
  '{"capabilities":null}',
  '{"capabilities":1}',
])('%s is EINVAL', (text) => {
  expect(() => decodeVersion(payload(text))).toThrow(/EINVAL/);
});

test('4096 bytes of JSON are read, one more is EINVAL', () => {
  const json = (bytes: number): string => `{"x":"${'y'.repeat(bytes - 8 - 1)}"}`;
  expect(decodeVersion(payload(json(4096))).minor).toBe(1);
  expect(() => decodeVersion(payload(json(4097)))).toThrow(/EINVAL/);
});

import { constants } from 'node:os';
import { expect, test } from 'vitest';
import { SysError } from '../../../sys/error.js';
import {
  type MigrationData,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../feature.js';
import { Reader, Writer } from '../message.js';
import * as protocol from '../protocol.js';
import { REGISTER_BYTES } from '../testing/card.js';
import { RawClient } from '../testing/raw-client.js';
import { ServedFeatures } from './feature.js';

const { errno } = constants;
const GET = 1 << 16;
const SET = 1 << 17;
const PROBE = 1 << 18;
const MIGRATION = 1;
const DEVICE_STATE = 2;
const LOGGING_START = 6;
const LOGGING_STOP = 7;
const LOGGING_REPORT = 8;
const DATA_SIZE = 9;

function ready(): RawClient {
  const client = new RawClient();
  client.negotiate();
  return client;
}

/** Data of a feature's answer, or its errno. */
function feature(
  client: RawClient,
  flags: number,
  data: Uint8Array = new Uint8Array(0),
  argsz = 8 + data.length,
) {
  const request = new Writer(8 + data.length).u32(argsz).u32(flags).data(data).bytes;
  const answer = client.ask(protocol.VFIO_USER_DEVICE_FEATURE, request);
  if ((answer.flags & protocol.FLAG_ERROR) !== 0) return answer.errno;
  const reader = new Reader(protocol.VFIO_USER_DEVICE_FEATURE, answer.payload);
  expect([reader.u32(), reader.u32()]).toEqual([answer.payload.length, flags]);
  return reader;
}

const value = (result: Reader | number): Reader => {
  if (typeof result === 'number') throw new RangeError(`errno ${result}`);
  return result;
};
const setState = (client: RawClient, state: number) =>
  feature(client, DEVICE_STATE | SET, new Writer(8).u32(state).u32(0).bytes);
const state = (client: RawClient): number =>
  value(feature(client, DEVICE_STATE | GET, new Uint8Array(8))).u32();

function readData(client: RawClient, bytes: number): Uint8Array {
  const { payload } = client.ask(protocol.VFIO_USER_MIG_DATA_READ, new Writer(8).u32(8).u32(bytes).bytes);
  const reader = new Reader(protocol.VFIO_USER_MIG_DATA_READ, payload);
  reader.u32();
  return reader.bytes(reader.u32()).slice();
}

test('a device’s state goes from one client’s device to another one’s, by messages', () => {
  using from = ready();
  from.card.registers.set([1, 2, 3], 100);
  expect(value(feature(from, MIGRATION | GET, new Uint8Array(8))).u64()).toBe(1n);
  expect(value(feature(from, DATA_SIZE | GET, new Uint8Array(8))).u64()).toBe(BigInt(REGISTER_BYTES));
  value(setState(from, VFIO_DEVICE_STATE_STOP_COPY));
  expect(state(from)).toBe(VFIO_DEVICE_STATE_STOP_COPY);
  const pieces: Uint8Array[] = [];
  for (let piece = readData(from, 1000); piece.length > 0; piece = readData(from, 1000)) pieces.push(piece);
  const data = Buffer.concat(pieces);
  expect(data).toHaveLength(REGISTER_BYTES);

  using to = ready();
  value(setState(to, VFIO_DEVICE_STATE_RESUMING));
  for (let at = 0; at < data.length; at += 900) {
    const piece = data.subarray(at, at + 900);
    const request = new Writer(8 + piece.length)
      .u32(8 + piece.length)
      .u32(piece.length)
      .data(piece).bytes;
    expect(to.ask(protocol.VFIO_USER_MIG_DATA_WRITE, request).errno).toBe(0);
  }
  value(setState(to, VFIO_DEVICE_STATE_STOP));
  expect([...to.card.registers.subarray(99, 104)]).toEqual([0, 1, 2, 3, 0]);
  value(setState(to, VFIO_DEVICE_STATE_RUNNING));
  expect(state(to)).toBe(VFIO_DEVICE_STATE_RUNNING);
});

test('data that the device does not have, or not yet, is refused', () => {
  using client = ready();
  const read = (bytes: number) =>
    client.ask(protocol.VFIO_USER_MIG_DATA_READ, new Writer(8).u32(8).u32(bytes).bytes).errno;
  expect(read(16)).toBe(errno.EINVAL);
  value(setState(client, VFIO_DEVICE_STATE_STOP_COPY));
  expect(read(0x7fff_ffff)).toBe(errno.EINVAL);
  expect(setState(client, 99)).toBe(errno.EINVAL);
});

test('dirty pages are told as a bitmap, if it fits', () => {
  using client = ready();
  const range = (length: bigint) => new Writer(24).u64(0x10_0000n).u64(length).u64(4096n).bytes;
  const start = new Writer(32).u64(4096n).u32(1).u32(0).u64(0x10_0000n).u64(0x8_0000n).bytes;
  value(feature(client, LOGGING_START | SET, start));
  const report = value(feature(client, LOGGING_REPORT | GET, range(0x8_0000n), 8 + 24 + 16));
  expect([report.u64(), report.u64(), report.u64()]).toEqual([0x10_0000n, 0x8_0000n, 4096n]);
  expect([...report.bytes(16)]).toEqual(new Array(16).fill(0x55));
  expect(feature(client, LOGGING_REPORT | GET, range(0x8_0000n), 32)).toBe(errno.E2BIG);
  expect(feature(client, LOGGING_REPORT | GET, range(1n << 50n), 0x7fff_ffff)).toBe(errno.E2BIG);
  value(feature(client, LOGGING_STOP | SET));
});

test('the log of DMA is told only while it is on, and a page behind the range never', () => {
  using client = ready();
  const pages = new Writer(24).u64(0n).u64(0x5000n).u64(4096n).bytes;
  const report = () => feature(client, LOGGING_REPORT | GET, pages, 40);
  expect(report()).toBe(errno.EINVAL);
  value(feature(client, LOGGING_START | SET | PROBE));
  expect(report()).toBe(errno.EINVAL);
  const start = new Writer(32).u64(4096n).u32(1).u32(0).u64(0n).u64(0x8000n).bytes;
  value(feature(client, LOGGING_START | SET, start));
  // The card sets every other bit of what it gets.
  const told = value(report());
  told.bytes(24);
  expect([...told.bytes(8)]).toEqual([0x15, 0, 0, 0, 0, 0, 0, 0]);
  value(feature(client, LOGGING_STOP | SET));
  expect(report()).toBe(errno.EINVAL);
});

test('a log without ranges is one of all addresses', () => {
  using client = ready();
  const ranges: unknown[] = [];
  client.card.dmaLogging.start = (wanted, pageSize) => {
    ranges.push(...wanted);
    return pageSize;
  };
  const start = new Writer(16).u64(4096n).u32(0).u32(0).bytes;
  const told = value(feature(client, LOGGING_START | SET, start));
  expect([told.u64(), told.u32(), told.u32(), told.left]).toEqual([4096n, 0, 0, 0]);
  expect(ranges).toEqual([{ iova: 0n, length: protocol.MAX_ADDRESS }]);
});

test('migration data is read in a saving state and written in RESUMING, even if the stream allows both', () => {
  using client = ready();
  const read = () => client.ask(protocol.VFIO_USER_MIG_DATA_READ, new Writer(8).u32(16).u32(8).bytes).errno;
  const write = () =>
    client.ask(protocol.VFIO_USER_MIG_DATA_WRITE, new Writer(9).u32(9).u32(1).data(Uint8Array.of(7)).bytes)
      .errno;
  value(setState(client, VFIO_DEVICE_STATE_STOP_COPY));
  expect([read(), write()]).toEqual([0, errno.EINVAL]);
  value(setState(client, VFIO_DEVICE_STATE_STOP));
  value(setState(client, VFIO_DEVICE_STATE_RESUMING));
  expect([read(), write()]).toEqual([errno.EINVAL, 0]);
});

test('a probe does nothing, and what the device has not is ENOTTY', () => {
  using client = ready();
  value(feature(client, MIGRATION | GET | PROBE));
  value(feature(client, DEVICE_STATE | SET | PROBE));
  expect(state(client)).toBe(VFIO_DEVICE_STATE_RUNNING);
  expect(feature(client, 77 | GET)).toBe(errno.ENOTTY);
  expect(feature(client, MIGRATION | SET)).toBe(errno.EINVAL);
});

/** A device whose every SET opens the stream of `streams` that comes next. */
function served(...streams: (MigrationData | undefined)[]) {
  const features = new ServedFeatures({
    deviceFeature(_flags, input) {
      const data = streams.shift();
      return { deviceState: input?.deviceState ?? 0, ...(data === undefined ? {} : { data }) };
    },
  });
  return {
    set: (to: number) =>
      features.feature(
        new Writer(16)
          .u32(16)
          .u32(DEVICE_STATE | SET)
          .u32(to)
          .u32(0).bytes,
      ),
    read: (bytes: number) => [...features.readData(new Writer(8).u32(8).u32(bytes).bytes).subarray(8)],
    end: () => features[Symbol.dispose](),
  };
}

const noInfo = (): never => {
  throw new RangeError('nobody asks for it here');
};

/** Gives a byte at a time. */
class Drip implements MigrationData {
  readonly precopyInfo = noInfo;
  readonly #bytes: number[];
  isDisposed = false;

  constructor(...bytes: number[]) {
    this.#bytes = bytes;
  }

  read(data: Uint8Array): number {
    const [byte] = this.#bytes.splice(0, 1);
    if (byte === undefined) return 0;
    if (byte <= 0) throw new SysError({ call: 'read', target: 'drip', errno: -byte });
    data[0] = byte;
    return 1;
  }

  write(): void {
    throw new RangeError('not written here');
  }

  [Symbol.dispose](): void {
    this.isDisposed = true;
  }
}

test('a stream goes on from PRE_COPY to STOP_COPY, and ends with the states that have it', () => {
  const [first, second] = [new Drip(1, 2, 3, 4), new Drip(9)];
  const { set, read, end } = served(first, undefined, undefined, second);
  set(VFIO_DEVICE_STATE_PRE_COPY);
  expect(read(2)).toEqual([1, 2]);
  set(VFIO_DEVICE_STATE_STOP_COPY);
  expect(read(3)).toEqual([3, 4]);
  expect(first.isDisposed).toBe(false);
  set(VFIO_DEVICE_STATE_STOP);
  expect(first.isDisposed).toBe(true);
  expect(() => read(1)).toThrowError(/EINVAL/);
  set(VFIO_DEVICE_STATE_STOP_COPY);
  expect(read(4)).toEqual([9]);
  end();
  expect(second.isDisposed).toBe(true);
});

test('what PRE_COPY has not for now is an end of the stream, which goes on in the next read', () => {
  const { set, read } = served(new Drip(1, -errno.ENOMSG, -errno.ENOMSG, 2, -errno.EIO));
  set(VFIO_DEVICE_STATE_PRE_COPY);
  expect([read(3), read(3), read(1)]).toEqual([[1], [], [2]]);
  expect(() => read(1)).toThrowError(/EIO/);
});

test('a device that takes long to look is read a piece at a time in PRE_COPY, and to the end when it has stopped', () => {
  const slow: MigrationData = {
    read(data) {
      const until = performance.now() + 60;
      while (performance.now() < until);
      data[0] = 7;
      return 1;
    },
    write() {},
    precopyInfo: () => ({ initialBytes: 0n, dirtyBytes: 0n }),
    [Symbol.dispose]() {},
  };
  const { set, read } = served(slow);
  set(VFIO_DEVICE_STATE_PRE_COPY);
  expect([read(3), read(3)]).toEqual([[7], [7]]);
  set(VFIO_DEVICE_STATE_STOP_COPY);
  expect(read(3)).toEqual([7, 7, 7]);
});

test('an error in the middle of a read comes with the next one, so that no byte is lost', () => {
  const { set, read } = served(new Drip(1, 2, -errno.EIO, 3));
  set(VFIO_DEVICE_STATE_STOP_COPY);
  expect(read(4)).toEqual([1, 2]);
  expect(read(4)).toEqual([3]);
});

test('dirty logging answers with the page size that the device has chosen', () => {
  const features = new ServedFeatures({ deviceFeature: () => ({ pageSize: 65_536n }) });
  const start = new Writer(40)
    .u32(40)
    .u32(LOGGING_START | SET)
    .u64(4096n)
    .u32(1)
    .u32(0)
    .u64(0n)
    .u64(65_536n);
  const reader = new Reader(protocol.VFIO_USER_DEVICE_FEATURE, features.feature(start.bytes));
  expect([reader.u32(), reader.u32(), reader.u64(), reader.u32()]).toEqual([
    40,
    LOGGING_START | SET,
    65_536n,
    1,
  ]);
});

test('an argsz without room for the structure is refused, and changes nothing', () => {
  using client = ready();
  expect(feature(client, MIGRATION | GET, new Uint8Array(8), 8)).toBe(errno.EINVAL);
  const resuming = new Writer(8).u32(VFIO_DEVICE_STATE_RESUMING).u32(0).bytes;
  expect(feature(client, DEVICE_STATE | SET, resuming, 8)).toBe(errno.EINVAL);
  expect(state(client)).toBe(VFIO_DEVICE_STATE_RUNNING);
});

test('migration data is bounded: what no state can have is ENOMEM', () => {
  using client = ready();
  value(setState(client, VFIO_DEVICE_STATE_RESUMING));
  const most = client.card.migration.mostResumeBytes as number;
  const write = (bytes: number) => {
    const data = new Writer(8 + bytes)
      .u32(8 + bytes)
      .u32(bytes)
      .data(new Uint8Array(bytes)).bytes;
    return client.ask(protocol.VFIO_USER_MIG_DATA_WRITE, data).errno;
  };
  expect([write(most), write(1)]).toEqual([0, errno.ENOMEM]);
});

test('a device that refuses to leave RESUMING without all of its data takes the rest', () => {
  const written: number[] = [];
  let current = VFIO_DEVICE_STATE_RUNNING;
  const data: MigrationData = {
    read: () => 0,
    precopyInfo: noInfo,
    write: (piece) => void written.push(...piece),
    [Symbol.dispose]: () => void written.push(-1),
  };
  using features = new ServedFeatures({
    deviceFeature: (flags, input) => {
      const { deviceState = current } = input ?? {};
      if ((flags & GET) !== 0) return { deviceState: current };
      if (deviceState !== VFIO_DEVICE_STATE_RESUMING && written.length < 2)
        throw new SysError({ call: 'arc', target: 'device', errno: errno.EINVAL });
      current = deviceState;
      return { deviceState, ...(deviceState === VFIO_DEVICE_STATE_RESUMING && { data }) };
    },
  });
  const set = (to: number) =>
    features.feature(
      new Writer(16)
        .u32(16)
        .u32(DEVICE_STATE | SET)
        .u32(to)
        .u32(0).bytes,
    );
  const write = (byte: number) =>
    features.writeData(new Writer(9).u32(9).u32(1).data(Uint8Array.of(byte)).bytes);
  set(VFIO_DEVICE_STATE_RESUMING);
  write(7);
  expect(() => set(VFIO_DEVICE_STATE_RUNNING)).toThrowError(/EINVAL/);
  write(8);
  set(VFIO_DEVICE_STATE_RUNNING);
  expect(written).toEqual([7, 8, -1]);
});

test('a device that falls into ERROR has no data any more', () => {
  const ERROR = 0;
  let current = VFIO_DEVICE_STATE_RUNNING;
  let written = 0;
  const data: MigrationData = {
    read: () => 0,
    precopyInfo: noInfo,
    write: (piece) => {
      written += piece.length;
    },
    [Symbol.dispose]: () => {},
  };
  using features = new ServedFeatures({
    deviceFeature: (flags, input) => {
      const deviceState = input?.deviceState;
      if ((flags & GET) !== 0) return { deviceState: current };
      if (deviceState === VFIO_DEVICE_STATE_RESUMING) {
        current = deviceState;
        return { deviceState, data };
      }
      current = ERROR;
      throw new SysError({ call: 'arc', target: 'device', errno: errno.EINVAL });
    },
  });
  const set = (to: number) =>
    features.feature(
      new Writer(16)
        .u32(16)
        .u32(DEVICE_STATE | SET)
        .u32(to)
        .u32(0).bytes,
    );
  const piece = new Writer(9).u32(9).u32(1).data(Uint8Array.of(7)).bytes;
  set(VFIO_DEVICE_STATE_RESUMING);
  features.writeData(piece);
  expect(() => set(VFIO_DEVICE_STATE_RUNNING)).toThrowError(/EINVAL/);
  expect(() => features.writeData(piece)).toThrowError(/EINVAL\n.*in a state without migration data/);
  expect(written).toBe(1);
});

test('an error at the beginning of a read is no end of the data', () => {
  const { set, read } = served(new Drip(-errno.EIO, 1));
  set(VFIO_DEVICE_STATE_STOP_COPY);
  expect(() => read(4)).toThrowError(/EIO/);
  expect(read(4)).toEqual([1]);
});

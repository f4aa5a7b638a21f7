/** What a device sends to its server, field by field, and what it makes of the answers. */
import { describe, expect, test } from 'vitest';
import { drainEventfd } from '../../../sys/eventfd.js';
import { Fd } from '../../../sys/fd.js';
import {
  VFIO_USER_DEVICE_GET_INFO as GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO as IRQ_INFO,
  VFIO_USER_REGION_READ as READ,
  VFIO_USER_DEVICE_GET_REGION_INFO as REGION_INFO,
  VFIO_USER_DEVICE_RESET as RESET,
  VFIO_USER_DEVICE_SET_IRQS as SET_IRQS,
  VFIO_USER_REGION_WRITE as WRITE,
} from '../protocol.js';
import { FakeConnection, type Sent } from '../testing/fake-connection.js';
import { bytes } from '../testing/peers/session.js';
import { UserDeviceFile } from './device.js';

const REGION = 2 ** 40;
const [DATA_NONE, DATA_BOOL, DATA_EVENTFD, MASK, UNMASK, TRIGGER] = [1, 2, 4, 8, 16, 32];
const [INTX, MSIX, REQ] = [0, 2, 4];
/** Flags and number of each kind of interrupts. */
const IRQS = [
  [7, 1],
  [9, 32],
  [9, 5000],
] as const;
const CONFIG_BYTES = 64;

interface Shape {
  readonly regions?: number;
  readonly irqs?: number;
  readonly flags?: number;
  /** The BARs that are ports. */
  readonly ports?: readonly number[];
  readonly barBytes?: number;
}

const field = ({ payload }: Sent, at: number): number =>
  new DataView(Uint8Array.from(payload).buffer).getUint32(at, true);

function served({ regions = 9, irqs = 5, flags = 3, ports = [], barBytes = 16 }: Shape = {}): FakeConnection {
  return new FakeConnection((sent) => {
    switch (sent.command) {
      case GET_INFO:
        return bytes(16, flags, regions, irqs);
      case REGION_INFO: {
        const index = field(sent, 8);
        return bytes(32, 3, index, 0, BigInt(index === 7 ? CONFIG_BYTES : barBytes), 0n);
      }
      case IRQ_INFO: {
        const [irqFlags, count] = IRQS[field(sent, 8)] ?? [0, 0];
        return bytes(16, irqFlags, 99, count);
      }
      case READ: {
        const [at, index, count] = [field(sent, 0), field(sent, 8), field(sent, 12)];
        const data = Array.from({ length: count }, (_, i) => (at + i) & 0xff);
        if (index === 7 && at >= 0x10) data[0] = ports.includes((at - 0x10) / 4) ? 0xf1 : 0xf0;
        return bytes(BigInt(at), index, count, data);
      }
      default:
        return undefined;
    }
  });
}

function opened(shape: Shape = {}): { readonly connection: FakeConnection; readonly device: UserDeviceFile } {
  const connection = served(shape);
  const device = new UserDeviceFile(connection.it, true);
  connection.take();
  return { connection, device };
}

test.each([
  [7, 5, false],
  [8, 5, true],
  [64, 64, true],
  [65, 5, false],
  [9, 65, false],
])('a device of %i regions and %i kinds of interrupts: possible is %s', (regions, irqs, isPossible) => {
  const open = () => new UserDeviceFile(served({ regions, irqs }).it, true);
  if (isPossible)
    expect(open().getInfo()).toEqual({ flags: 3, numRegions: regions, numIrqs: Math.max(5, irqs) });
  else expect(open).toThrowError(/^VFIO_USER_DEVICE_GET_INFO on .*: EPROTO\n.* regions and .* kinds/);
});

test.each([
  [0, false],
  [1, true],
  [2, true],
])('a server of version 0.%i gets a guest’s writes to emulated registers, too: %s', (minor, isWritten) => {
  const connection = served();
  connection.minor = minor;
  expect(new UserDeviceFile(connection.it, true).takesEmulatedWrites).toBe(isWritten);
});

test('a closed device refuses everything with EBADF, and may be closed again', () => {
  const { connection, device } = opened();
  device[Symbol.dispose]();
  device[Symbol.dispose]();
  for (const [call, use] of Object.entries({
    VFIO_DEVICE_GET_INFO: () => device.getInfo(),
    VFIO_DEVICE_GET_REGION_INFO: () => device.getRegionInfo(0),
    VFIO_USER_DEVICE_GET_REGION_IO_FDS: () => device.getRegionIoFds(0),
    VFIO_USER_DEVICE_GET_REGION_INFO: () => device.getRegionFile(0),
    VFIO_DEVICE_GET_IRQ_INFO: () => device.getIrqInfo(0),
    VFIO_DEVICE_SET_IRQS: () => device.setIrqs({ index: 0, flags: 33, start: 0, count: 1 }),
    VFIO_DEVICE_RESET: () => device.reset(),
    pread: () => device.read(0, new Uint8Array(1)),
    pwrite: () => device.write(0, new Uint8Array(1)),
    VFIO_DEVICE_FEATURE: () => device.deviceFeature(1),
    mmap: () => device.mmap(0, 4096),
  }))
    expect(use, call).toThrowError(new RegExp(`^${call} on /run/fake.sock: EBADF\n.*closed`));
  expect(connection.take()).toEqual([]);
});

describe('interrupts', () => {
  test('are asked for once, have the index that was asked for, and are 2048 at most', () => {
    const { connection, device } = opened({ irqs: 3 });
    expect(device.getInfo().numIrqs).toBe(5);
    for (let i = 0; i < 2; i++)
      expect([0, 1, 2, 3, 4].map((index) => device.getIrqInfo(index))).toEqual([
        { index: 0, flags: 7, count: 1 },
        { index: 1, flags: 9, count: 32 },
        { index: 2, flags: 9, count: 2048 },
        { index: 3, flags: 0, count: 0 },
        { index: 4, flags: 1, count: 1 },
      ]);
    expect(connection.take().map((sent) => [sent.command, sent.payload])).toEqual(
      [0, 1, 2].map((index) => [IRQ_INFO, [...bytes(16, 0, index, 0)]]),
    );
    for (const index of [-1, 5, 0.5])
      expect(() => device.getIrqInfo(index)).toThrowError(/EINVAL\n.*no irq index/);
  });

  const sets = (connection: FakeConnection) =>
    connection
      .take()
      .filter(({ command }) => command === SET_IRQS)
      .map(({ payload, fds }) => ({ payload, fds }));

  test.each<[string, number, readonly number[], readonly (readonly [number, number, readonly number[]])[]]>([
    ['one message as long as they fit', 4, [5, 6, 7], [[10, 3, [5, 6, 7]]]],
    [
      'more if the server takes fewer',
      2,
      [5, 6, 7],
      [
        [10, 2, [5, 6]],
        [12, 1, [7]],
      ],
    ],
    [
      'those without apart',
      4,
      [-1, 5, -1, -1],
      [
        [10, 1, []],
        [11, 1, [5]],
        [12, 2, []],
      ],
    ],
    ['all without in one', 1, [-1, -1, -1], [[10, 3, []]]],
    ['none as an empty range', 4, [], [[10, 0, []]]],
  ])('go with their eventfds: %s', (_how, maxMsgFds, data, expected) => {
    const { connection, device } = opened();
    connection.capabilities = { ...connection.capabilities, maxMsgFds };
    const flags = DATA_EVENTFD | TRIGGER;
    device.setIrqs({ index: MSIX, flags, start: 10, count: data.length, data });
    expect(sets(connection)).toEqual(
      expected.map(([start, count, fds]) => ({ payload: [...bytes(20, flags, MSIX, start, count)], fds })),
    );
  });

  test('are ENOTSUP with an eventfd for a server that takes no descriptors', () => {
    const { connection, device } = opened();
    connection.capabilities = { ...connection.capabilities, maxMsgFds: 0 };
    const set = { index: MSIX, flags: DATA_EVENTFD | TRIGGER, start: 0, count: 2 };
    expect(() => device.setIrqs({ ...set, data: [-1, 5] })).toThrowError(/ENOTSUP\n.*max_msg_fds is 0/);
    expect(sets(connection)).toEqual([]);
    device.setIrqs({ ...set, data: [-1, -1] });
    expect(sets(connection)).toHaveLength(1);
  });

  test('go with flags of one byte each, or with nothing', () => {
    const { connection, device } = opened();
    device.setIrqs({ index: MSIX, flags: DATA_BOOL | TRIGGER, start: 1, count: 3, data: [1, 0, 1] });
    device.setIrqs({ index: INTX, flags: DATA_NONE | MASK, start: 0, count: 1, data: [1] });
    expect(sets(connection)).toEqual([
      { payload: [...bytes(23, DATA_BOOL | TRIGGER, MSIX, 1, 3, [1, 0, 1])], fds: [] },
      { payload: [...bytes(20, DATA_NONE | MASK, INTX, 0, 1)], fds: [] },
    ]);
  });

  test('that do not mask themselves are unmasked and masked by no eventfd', () => {
    const { connection, device } = opened();
    for (const action of [MASK, UNMASK]) {
      const set = { flags: DATA_EVENTFD | action, start: 0, count: 1, data: [3] };
      expect(() => device.setIrqs({ ...set, index: MSIX })).toThrowError(
        /ENOTTY\n.*interrupts 2 do not mask/,
      );
      device.setIrqs({ ...set, index: INTX });
      device.setIrqs({ ...set, index: MSIX, flags: DATA_NONE | action });
    }
    expect(sets(connection).map(({ fds }) => fds)).toEqual([[3], [], [3], []]);
  });

  test('the eventfd of REQ stays here, and is signalled once the server is gone', () => {
    const { connection, device } = opened();
    using first = Fd.eventfd('first');
    using second = Fd.eventfd('second');
    const set = (flags: number, fd?: number) =>
      device.setIrqs({ index: REQ, flags, start: 0, count: 1, ...(fd === undefined ? {} : { data: [fd] }) });
    set(DATA_EVENTFD | TRIGGER, first.number);
    set(DATA_EVENTFD | TRIGGER, second.number);
    expect(connection.take()).toEqual([]);
    connection.hangUp();
    expect([drainEventfd(first.number), drainEventfd(second.number)]).toEqual([0n, 1n]);
    set(DATA_EVENTFD | TRIGGER, first.number);
    expect(drainEventfd(first.number)).toBe(1n);
    set(DATA_EVENTFD | TRIGGER, -1);
    set(DATA_NONE | TRIGGER);
  });

  const detach =
    (flags: number, data: readonly number[]) =>
    (device: UserDeviceFile): void =>
      device.setIrqs({ index: REQ, flags, start: 0, count: 1, data });
  test.each<[string, (device: UserDeviceFile) => void]>([
    ['-1', detach(DATA_EVENTFD | TRIGGER, [-1])],
    ['no data', detach(DATA_NONE | TRIGGER, [])],
    ['the end of the device file', (device) => device[Symbol.dispose]()],
  ])('the eventfd of REQ is detached by %s', (_what, end) => {
    const { connection, device } = opened();
    using bell = Fd.eventfd('req');
    device.setIrqs({ index: REQ, flags: DATA_EVENTFD | TRIGGER, start: 0, count: 1, data: [bell.number] });
    end(device);
    connection.hangUp();
    expect(drainEventfd(bell.number)).toBe(0n);
  });
});

test('a reset is sent if the device has one', () => {
  const { connection, device } = opened();
  device.reset();
  expect(connection.take()).toMatchObject([{ command: RESET, payload: [], fds: [] }]);
  const without = opened({ flags: 2 });
  expect(() => without.device.reset()).toThrowError(/^VFIO_DEVICE_RESET on .*: ENOTTY/);
  expect(without.connection.take()).toEqual([]);
});

describe('accesses', () => {
  const requests = (connection: FakeConnection, command: number) =>
    connection.take().filter((sent) => sent.command === command);

  test('are cut into what the server takes at once, and end with the region', () => {
    const { connection, device } = opened({ ports: [1] });
    connection.capabilities = { ...connection.capabilities, maxDataXferSize: 4 };
    const data = new Uint8Array(20).fill(0xee);
    expect(device.read(REGION + 7, data)).toBe(9);
    expect([...data]).toEqual([7, 8, 9, 10, 11, 12, 13, 14, 15, ...new Array<number>(11).fill(0xee)]);
    expect(requests(connection, READ).map(({ payload }) => payload)).toEqual([
      [...bytes(7n, 1, 4)],
      [...bytes(11n, 1, 4)],
      [...bytes(15n, 1, 1)],
    ]);
    expect(device.write(REGION + 11, Uint8Array.of(1, 2, 3, 4, 5, 6, 7))).toBe(5);
    expect(requests(connection, WRITE)).toEqual([
      { command: WRITE, payload: [...bytes(11n, 1, 4, [1, 2, 3, 4])], fds: [], isPosted: false },
      { command: WRITE, payload: [...bytes(15n, 1, 1, [5])], fds: [], isPosted: false },
    ]);
    for (const use of [device.read.bind(device), device.write.bind(device)]) {
      expect(use(REGION + 15, data)).toBe(1);
      expect(() => use(REGION + 16, data)).toThrowError(
        /EINVAL\n.*offset 0x10 of region 1, which has 16 bytes/,
      );
      expect(() => use(9 * REGION, data)).toThrowError(/EINVAL\n.*there is no region 9/);
    }
  });

  test('of as many bytes as one message are one message', () => {
    const { connection, device } = opened();
    connection.capabilities = { ...connection.capabilities, maxDataXferSize: 4 };
    expect(device.read(0, new Uint8Array(4))).toBe(4);
    expect(requests(connection, READ)).toHaveLength(1);
    expect(device.read(0, new Uint8Array(0))).toBe(0);
    expect(requests(connection, READ)).toHaveLength(0);
  });

  test.each([
    ['memory', 0, true],
    ['the last BAR of memory', 5, true],
    ['ports', 1, false],
    ['the ROM', 6, false],
    ['configuration space', 7, false],
  ])('that write %s (region %i): posted is %s', (_what, index, isPosted) => {
    const { connection, device } = opened({ ports: [1] });
    for (let i = 0; i < 2; i++) device.write(index * REGION, Uint8Array.of(1));
    const all = connection.take();
    expect(all.filter(({ command }) => command === WRITE).map((sent) => sent.isPosted)).toEqual([
      isPosted,
      isPosted,
    ]);
    // The kind of a BAR is read once.
    const reads = all.filter(({ command }) => command === READ).map(({ payload }) => payload);
    expect(reads).toEqual(index > 5 ? [] : [[...bytes(BigInt(0x10 + 4 * index), 7, 4)]]);
  });

  test('of a server that is gone read all-ones, and write nowhere', () => {
    const { connection, device } = opened();
    connection.hangUp();
    const data = new Uint8Array(100);
    expect([device.read(0, data), device.write(0, data)]).toEqual([100, 100]);
    expect(new Set(data)).toEqual(new Set([0xff]));
    expect(connection.take()).toEqual([]);
  });

  test('with fewer bytes in the answer than were asked for are EINVAL', () => {
    const { connection } = opened();
    const device = new UserDeviceFile(
      new FakeConnection((sent) =>
        sent.command === READ
          ? bytes(0n, 0, 4, [1, 2, 3])
          : connection.ask(sent.command, Uint8Array.from(sent.payload)),
      ).it,
      true,
    );
    expect(() => device.read(0, new Uint8Array(4))).toThrowError(/^VFIO_USER_REGION_READ .*EINVAL/);
  });
});

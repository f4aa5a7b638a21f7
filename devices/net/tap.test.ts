import { constants } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { tap, tapOver } from './tap.js';
import type { TapSystem } from './tap-setup.js';

const TUNSETIFF = 0x4004_54ca;
const TUNGETIFF = 0x8004_54d2;
const TUNSETOFFLOAD = 0x4004_54d0;
const TUNSETSNDBUF = 0x4004_54d4;
const TUNGETFEATURES = 0x8004_54cf;
const TUNSETQUEUE = 0x4004_54d9;
const IFF_VNET_HDR = 0x4000;
const EVERYTHING = 0x67; // TUN_F_CSUM, TSO4, TSO6, USO4, USO6

/** A kernel with one tap; its frames are in `toGuest` and `fromGuest`. */
class FakeTap implements TapSystem {
  readonly calls: string[] = [];
  readonly toGuest: Uint8Array[] = [];
  readonly fromGuest: Uint8Array[] = [];
  openError: string | undefined;
  ioctlResult = 0;
  /** Number of another ioctl that fails. */
  refused = 0;
  /** Of TUNGETFEATURES, or a negative errno. */
  features = 0x1002;
  /** Offloads that the kernel knows. */
  offloads = EVERYTHING;
  writeError: string | undefined;
  readError: string | undefined;
  /** What stat(2) says of descriptor 9; EBADF if undefined. */
  device: number | undefined = 10 * 256 + 200;
  /** Flags of TUNGETIFF, or a negative errno. */
  ifFlags = 0x1002;
  /** Names of interfaces by descriptor, where it is not tap0. */
  readonly names = new Map<number, string>();

  deviceOf(fd: number): number {
    if (fd !== 9 || this.device === undefined) throw failure('EBADF');
    return this.device;
  }

  fcntl(fd: number, command: number, value: number): number {
    this.calls.push(`fcntl ${fd} ${command} ${value}`);
    if (command === 1030) return 44; // F_DUPFD_CLOEXEC
    return command === 3 ? constants.O_RDWR : 0;
  }

  open(path: string, flags: number): number {
    this.calls.push(`open ${path}${(flags & constants.O_NONBLOCK) !== 0 ? ' nonblock' : ''}`);
    if (this.openError !== undefined) throw failure(this.openError);
    return 33;
  }

  close(fd: number): void {
    this.calls.push(`close ${fd}`);
  }

  ioctl(fd: number, request: number, argument: Uint8Array | number): number {
    if (request === TUNGETIFF) {
      if (this.ifFlags < 0) return this.ifFlags;
      const ifreq = argument as Uint8Array<ArrayBuffer>;
      ifreq.set(Buffer.from(this.names.get(fd) ?? 'tap0'));
      new DataView(ifreq.buffer).setUint16(16, this.ifFlags, true);
      return 0;
    }
    if (request === TUNGETFEATURES) {
      if (this.features < 0) return this.features;
      new DataView((argument as Uint8Array<ArrayBuffer>).buffer).setUint32(0, this.features, true);
      return 0;
    }
    if (request !== TUNSETIFF) {
      const text = typeof argument === 'number' ? String(argument) : Buffer.from(argument).toString('hex');
      this.calls.push(`ioctl ${fd} ${request.toString(16)} ${text}`);
      if (request === TUNSETOFFLOAD && (Number(argument) & ~this.offloads) !== 0) return -errno.EINVAL;
      return request === this.refused ? -errno.ENOTTY : 0;
    }
    if (typeof argument === 'number') throw new RangeError('TUNSETIFF takes a structure');
    const name = Buffer.from(argument.subarray(0, 16)).toString().replace(/\0+$/, '');
    const flags = argument[16]! | (argument[17]! << 8);
    this.calls.push(
      `ioctl ${fd} ${request.toString(16)} ${name} ${flags.toString(16)} of ${argument.length}`,
    );
    return this.ioctlResult;
  }

  writev(_fd: number, parts: readonly Uint8Array[]): number {
    if (this.writeError !== undefined) throw failure(this.writeError);
    const frame = Uint8Array.from(Buffer.concat(parts));
    this.fromGuest.push(frame);
    return frame.length;
  }

  /** Truncates a frame that does not fit, like tun. */
  readv(_fd: number, parts: readonly Uint8Array[]): number {
    if (this.readError !== undefined) throw failure(this.readError);
    const frame = this.toGuest.shift();
    if (frame === undefined) throw failure('EAGAIN');
    let copied = 0;
    for (const part of parts) {
      const chunk = frame.subarray(copied, copied + part.length);
      part.set(chunk);
      copied += chunk.length;
    }
    return copied;
  }
}

function failure(code: string): Error {
  return Object.assign(new Error(code), { code, errno: -(errno[code as keyof typeof errno] ?? 77) });
}

test('opening requests a tap of that name as a new one would be, and closing releases it once', () => {
  const system = new FakeTap();
  const port = tapOver(system).open('tap0');
  expect(port.fd).toBe(33);
  port[Symbol.dispose]();
  port[Symbol.dispose]();
  expect(system.calls).toEqual([
    'open /dev/net/tun nonblock',
    'ioctl 33 400454ca tap0 1002 of 40',
    'ioctl 33 400454d0 0',
    'ioctl 33 400454d8 0a000000',
    'ioctl 33 400454d4 ffffff7f',
    'ioctl 33 400454d1 00000000',
    `ioctl 33 401054d6 ${'0'.repeat(32)}`,
    'close 33',
  ]);
  expect([
    port.fd,
    port.transmit([new Uint8Array(60)]),
    port.receive([new Uint8Array(60)]),
    port.pending(),
  ]).toEqual([-1, false, 0, 0]);
});

test.each([
  ['EPERM', 'CAP_NET_ADMIN'],
  ['EBUSY', 'another process'],
  ['EINVAL', 'not a tap'],
] as const)('%s from TUNSETIFF names the interface with a hint, and leaves nothing open', (code, hint) => {
  const system = new FakeTap();
  system.ioctlResult = -errno[code];
  expect(() => tapOver(system).open('lan0')).toThrow(
    expect.objectContaining({
      code,
      call: 'TUNSETIFF',
      target: 'tap lan0',
      hint: expect.stringContaining(hint),
    }),
  );
  expect(system.calls.at(-1)).toBe('close 33');
});

test.each([
  ['TUNSETOFFLOAD', TUNSETOFFLOAD],
  ['TUNSETSNDBUF', TUNSETSNDBUF],
])(
  'what the last user left and cannot be undone by %s is an error, and nothing stays open',
  (call, number) => {
    const system = new FakeTap();
    system.refused = number;
    expect(() => tapOver(system).open('lan0')).toThrow(
      expect.objectContaining({ code: 'ENOTTY', call, target: 'tap lan0' }),
    );
    expect(system.calls.at(-1)).toBe('close 33');
  },
);

test.each([
  ['all', EVERYTHING, EVERYTHING, [EVERYTHING]],
  ['no USO', 7, 7, [EVERYTHING, 7]],
  ['checksums', 1, 1, [EVERYTHING, 7, 1]],
  ['none', 0, 0, [EVERYTHING, 7, 1]],
])(
  'of a kernel with %s of the offloads, the port offers these, and has none at first',
  (_name, has, offered, tried) => {
    const system = new FakeTap();
    system.features = 0x1002 | IFF_VNET_HDR;
    system.offloads = has;
    using port = tapOver(system).open('tap0');
    expect(port.offloads?.offered).toBe(offered);
    expect(system.calls).toContain('ioctl 33 400454ca tap0 5002 of 40');
    expect(system.calls).toContain('ioctl 33 400454d8 0c000000');
    const set = system.calls.filter((call) => call.startsWith('ioctl 33 400454d0'));
    expect(set.map((call) => Number(call.split(' ').at(-1)))).toEqual([...tried, 0]);
  },
);

test.each([0x1002, -errno.ENOTTY])(
  'a kernel without headers (TUNGETFEATURES: %i) has bare frames',
  (features) => {
    const system = new FakeTap();
    system.features = features;
    using port = tapOver(system).open('tap0');
    expect(port.offloads).toBeUndefined();
    expect(system.calls).toContain('ioctl 33 400454ca tap0 1002 of 40');
  },
);

test('offloads are switched when the guest accepts others, and refusal or closing is no error', () => {
  const system = new FakeTap();
  system.features = IFF_VNET_HDR;
  const port = tapOver(system).open('tap0');
  system.calls.length = 0;
  for (const offloads of [0, 3, 3, 1]) port.offloads?.accept(offloads);
  system.offloads = 0;
  for (const offloads of [1, 7]) port.offloads?.accept(offloads);
  port[Symbol.dispose]();
  port.offloads?.accept(0);
  expect(system.calls).toEqual([
    'ioctl 33 400454d0 3',
    'ioctl 33 400454d0 1',
    'ioctl 33 400454d0 7',
    'close 33',
  ]);
});

test('headers are part of a frame, and not counted', () => {
  const system = new FakeTap();
  system.features = IFF_VNET_HDR;
  using port = tapOver(system).open('tap0');
  expect(port.transmit([new Uint8Array(12), new Uint8Array(60)])).toBe(true);
  system.toGuest.push(new Uint8Array(72));
  expect(port.receive([new Uint8Array(100)])).toBe(72);
  expect(port.counters).toMatchObject({ txFrames: 1, txBytes: 60, rxFrames: 1, rxBytes: 60 });
});

test.each(['ENOENT', 'ENODEV', 'EACCES'])('%s from open names the tun driver', (code) => {
  const system = new FakeTap();
  system.openError = code;
  expect(() => tapOver(system).open('lan0')).toThrow(
    expect.objectContaining({ code, call: 'open', hint: expect.stringContaining('modprobe tun') }),
  );
});

test('frames are sent and received whole, whatever the parts', () => {
  const parts = fc.array(fc.uint8Array({ maxLength: 100 }), { minLength: 1, maxLength: 6 });
  const rooms = fc.array(fc.nat(300), { maxLength: 6 });
  fc.assert(
    fc.property(parts, fc.uint8Array({ minLength: 14, maxLength: 600 }), rooms, (out, incoming, sizes) => {
      const system = new FakeTap();
      using port = tapOver(system).open('t');
      const sent = Buffer.concat(out);
      expect(port.transmit(out)).toBe(sent.length > 0);
      expect(Buffer.from(system.fromGuest[0]!)).toEqual(sent);

      system.toGuest.push(incoming);
      const buffers = sizes.map((size) => new Uint8Array(size));
      const room = sizes.reduce((sum, size) => sum + size, 0);
      expect(port.receive(buffers)).toBe(room < incoming.length ? -1 : incoming.length);
      expect(port.receive(buffers)).toBe(0);
      system.toGuest.push(incoming);
      const other = new Uint8Array(600);
      expect(port.receive([other])).toBe(incoming.length);
      expect(other.slice(0, incoming.length)).toEqual(incoming);
      if (room >= incoming.length) {
        expect(Buffer.concat(buffers).subarray(0, incoming.length)).toEqual(Buffer.from(incoming));
      }
      const fits = room >= incoming.length ? 1 : 0;
      expect(port.counters).toMatchObject({
        rxFrames: fits + 1,
        rxDropped: 1 - fits,
        rxBytes: (fits + 1) * incoming.length,
      });
    }),
  );
});

test.each(['EIO', 'EAGAIN', 'EINVAL'])(
  'a frame that the host rejects with %s is dropped and counted',
  (code) => {
    const system = new FakeTap();
    using port = tapOver(system).open('t');
    system.writeError = code;
    expect(port.transmit([new Uint8Array(60)])).toBe(false);
    expect(port.counters).toMatchObject({ txDropped: 1, txFrames: 0 });
  },
);

test('a frame in more parts than one writev takes is dropped, not sent as two', () => {
  const system = new FakeTap();
  using port = tapOver(system).open('t');
  expect(port.transmit(Array.from({ length: 1025 }, () => new Uint8Array(1)))).toBe(false);
  expect(system.fromGuest).toEqual([]);
});

test('a removed interface is an error that names it', () => {
  const system = new FakeTap();
  using port = tapOver(system).open('lan0');
  system.readError = 'EBADFD';
  expect(() => port.receive([new Uint8Array(60)])).toThrow(
    expect.objectContaining({ errno: 77, target: 'tap lan0' }),
  );
});

test.each([
  ['', 'a tap needs its interface name: tap:NAME'],
  ['sixteen-letters-', 'interface name "sixteen-letters-" is longer than 15 characters'],
  ['a/b', 'interface name "a/b" has a character or form that Linux does not allow'],
  ['a:b', 'interface name "a:b" has a character or form that Linux does not allow'],
  ['tap%d', 'interface name "tap%d" has a character or form that Linux does not allow'],
  ['a b', 'interface name "a b" has a character or form that Linux does not allow'],
  ['é', 'interface name "é" has a character or form that Linux does not allow'],
  ['fd=', '"" is not the number of a descriptor: tap:fd=N'],
  ['fd=-1', '"-1" is not the number of a descriptor: tap:fd=N'],
  ['fd=1e1', '"1e1" is not the number of a descriptor: tap:fd=N'],
  ['fd=2', 'descriptor 2 is a standard stream: a tap has another, tap:fd=N'],
  ['..', 'interface name ".." has a character or form that Linux does not allow'],
])('%j is rejected before anything is opened', (name, problem) => {
  const system = new FakeTap();
  expect(tapOver(system).validate(name)).toBe(problem);
  expect(() => tapOver(system).open(name)).toThrow(TypeError);
  expect(system.calls).toEqual([]);
});

test.each(['fd=3', 'tap0', 'fifteen-letters', 'br-lan.100', '@eth_0'])('%j is valid', (name) => {
  expect(tap.validate(name)).toBeUndefined();
});

test('a descriptor is duplicated, set up as a new tap, and left open when the port closes', () => {
  const system = new FakeTap();
  const port = tapOver(system).open('fd=9');
  expect(port.fd).toBe(44);
  port[Symbol.dispose]();
  expect(system.calls).toEqual([
    'fcntl 9 1030 3',
    'fcntl 44 3 0',
    `fcntl 44 4 ${constants.O_RDWR | constants.O_NONBLOCK}`,
    'ioctl 44 400454d0 0',
    'ioctl 44 400454d8 0a000000',
    'ioctl 44 400454d4 ffffff7f',
    'ioctl 44 400454d1 00000000',
    `ioctl 44 401054d6 ${'0'.repeat(32)}`,
    'close 44',
  ]);
});

test.each([
  ['is closed', { device: undefined }, 'EBADF', 'leave it open'],
  ['is a file', { device: 0 }, 'EINVAL', 'no tap'],
  ['is another device', { device: 10 * 256 + 232 }, 'EINVAL', 'no tap'],
  ['has no interface', { ifFlags: -errno.EBADFD }, 'EBADFD', 'TUNSETIFF first'],
  ['is a tun', { ifFlags: 0x1001 }, 'EINVAL', 'without Ethernet'],
  ['has packet information', { ifFlags: 0x0002 }, 'EINVAL', 'packet information'],
  ['has packet information and headers', { ifFlags: 0x4002 }, 'EINVAL', 'packet information'],
] as const)('a descriptor that %s is refused, and nothing is opened or changed', (_what, is, code, hint) => {
  const system = Object.assign(new FakeTap(), is);
  expect(() => tapOver(system).open('fd=9')).toThrow(
    expect.objectContaining({ code, target: 'tap fd 9', hint: expect.stringContaining(hint) }),
  );
  expect(system.calls).toEqual([]);
});

test.each([
  ['with headers', 0x5002, EVERYTHING, '0c000000'],
  ['without headers', 0x1002, undefined, '0a000000'],
])('a descriptor of a tap %s has offloads accordingly', (_what, ifFlags, offered, headerBytes) => {
  const system = Object.assign(new FakeTap(), { ifFlags, features: 0x5002 });
  using port = tapOver(system).open('fd=9');
  expect(port.offloads?.offered).toBe(offered);
  expect(system.calls).toContain(`ioctl 44 400454d8 ${headerBytes}`);
});

test('a descriptor that a port has is refused until the port closes, its own as well as its duplicate', () => {
  const system = new FakeTap();
  const port = tapOver(system).open('fd=9');
  for (const address of ['fd=9', 'fd=44'])
    expect(() => tapOver(system).open(address)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
  port[Symbol.dispose]();
  using again = tapOver(system).open('fd=9');
  expect(again.fd).toBe(44);
});

test('a descriptor whose offloads cannot be switched off stays open, and its duplicate is closed', () => {
  const system = new FakeTap();
  system.refused = TUNSETOFFLOAD;
  expect(() => tapOver(system).open('fd=9')).toThrow(expect.objectContaining({ call: 'TUNSETOFFLOAD' }));
  expect(system.calls.at(-1)).toBe('close 44');
});

/** Calls that attach (2) and detach (4) a queue. */
const queueCalls = ({ calls }: FakeTap): string[] =>
  calls.flatMap((call) => /ioctl (\d+ 400454d9) 0{35}([24])/.exec(call)?.slice(1).join(' ') ?? []);

test('a tap of several queues is opened as one, of which all but the first begin detached', () => {
  const [first, second] = [new FakeTap(), new FakeTap()];
  using one = tapOver(first).openPair!('tap0', { index: 0, count: 2 });
  using two = tapOver(second).openPair!('tap0', { index: 1, count: 2 });
  for (const { calls } of [first, second]) expect(calls[1]).toBe('ioctl 33 400454ca tap0 1102 of 40');
  expect(queueCalls(first)).toEqual([]);
  expect(queueCalls(second)).toEqual(['33 400454d9 4']);
  expect(one.setActive).toBeUndefined();
  expect([two.setActive?.(false), two.setActive?.(true), two.setActive?.(true)]).toEqual([true, true, true]);
  expect(queueCalls(second)).toEqual(['33 400454d9 4', '33 400454d9 2']);
  second.refused = TUNSETQUEUE;
  expect(two.setActive?.(false)).toBe(false);
});

test('offloads are the interface’s: the first queue sets them', () => {
  const [first, second] = [new FakeTap(), new FakeTap()];
  for (const system of [first, second]) system.features = 0x1002 | IFF_VNET_HDR;
  using one = tapOver(first).openPair!('tap0', { index: 0, count: 2 });
  using two = tapOver(second).openPair!('tap0', { index: 1, count: 2 });
  for (const system of [first, second]) system.calls.length = 0;
  for (const port of [one, two]) port.offloads?.accept(7);
  expect(first.calls).toEqual(['ioctl 33 400454d0 7']);
  expect(second.calls).toEqual([]);
});

test('an interface of one queue is EINVAL with the command that makes one of several, and a queue that cannot be detached leaves nothing open', () => {
  const system = new FakeTap();
  system.ioctlResult = -errno.EINVAL;
  const open = () => tapOver(system).openPair!('tap0', { index: 1, count: 2 });
  expect(open).toThrow(
    expect.objectContaining({ code: 'EINVAL', hint: expect.stringContaining('mode tap multi_queue') }),
  );
  system.ioctlResult = 0;
  system.refused = TUNSETQUEUE;
  expect(open).toThrow(expect.objectContaining({ call: 'TUNSETQUEUE', code: 'ENOTTY' }));
  expect(system.calls.filter((call) => call === 'close 33')).toHaveLength(2);
});

test('a descriptor of a queue is its giver’s: attached again when the port is closed', () => {
  const system = new FakeTap();
  system.ifFlags = 0x1102;
  const port = tapOver(system).openPair!('fd=8:9', { index: 1, count: 2 });
  expect(queueCalls(system)).toEqual(['44 400454d9 4']);
  port[Symbol.dispose]();
  expect(queueCalls(system)).toEqual(['44 400454d9 4', '44 400454d9 2']);
  expect(system.calls.at(-1)).toBe('close 44');
});

test('a descriptor of a tap of one queue, or of another interface than the first, is EINVAL', () => {
  const system = new FakeTap();
  const open = () => tapOver(system).openPair!('fd=8:9', { index: 1, count: 2 });
  expect(open).toThrow(
    expect.objectContaining({ code: 'EINVAL', hint: expect.stringContaining('one queue') }),
  );
  system.ifFlags = 0x1102;
  system.names.set(8, 'tap8');
  expect(open).toThrow(
    expect.objectContaining({
      code: 'EINVAL',
      hint: 'it is a queue of tap0, and the first descriptor one of tap8',
    }),
  );
  expect(tapOver(system).descriptors?.('fd=8:9')).toEqual([8, 9]);
  expect(tapOver(system).descriptors?.('tap0')).toEqual([]);
});

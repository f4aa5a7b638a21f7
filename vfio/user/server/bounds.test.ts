/** A session at the bounds of what a client may ask for, field by field. */
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { trace } from '../../../sys/trace.js';
import type { RegionIoEventFd } from '../../uapi.js';
import { encodeCommand, encodeReply } from '../message.js';
import * as protocol from '../protocol.js';
import { KICK, MEMORY, REGISTERS } from '../testing/card.js';
import { bytes } from '../testing/peers/session.js';
import { type Answer, QEMU_CAPABILITIES, RawClient } from '../testing/raw-client.js';
import { encodeVersion } from '../version.js';

const {
  VFIO_USER_REGION_READ: READ,
  VFIO_USER_REGION_WRITE: WRITE,
  VFIO_USER_REGION_WRITE_MULTI: MULTI,
  VFIO_USER_DEVICE_RESET: RESET,
  VFIO_USER_DMA_READ: DMA_READ,
  VFIO_USER_DMA_WRITE: DMA_WRITE,
} = protocol;
const { errno } = constants;

function ready(capabilities: Parameters<RawClient['negotiate']>[0] = QEMU_CAPABILITIES): RawClient {
  // Its answers are there before the server asks: a busy machine must not make them late.
  const client = new RawClient(false, 30_000);
  for (const fd of client.negotiate(capabilities).fds) fd[Symbol.dispose]();
  return client;
}
const codeOf = ({ flags, errno: code }: Answer) => ((flags & protocol.FLAG_ERROR) === 0 ? 0 : code);

describe('the version', () => {
  const twinSocket = { fdIndex: undefined };
  test.each([
    [0, 0, 0],
    [1, 1, 0],
    [2, 2, 1],
    [9, 2, 1],
  ])('of a client of 0.%i is 0.%i, with %i twin sockets', (minor, agreed, twins) => {
    using client = new RawClient();
    const capabilities = { ...QEMU_CAPABILITIES, twinSocket };
    const hello = encodeVersion({ major: 0, minor, capabilities }, false);
    const { payload, fds } = client.ask(protocol.VFIO_USER_VERSION, hello);
    expect([...payload.subarray(0, 4)]).toEqual([0, 0, agreed, 0]);
    expect(fds).toHaveLength(twins);
    for (const fd of fds) fd[Symbol.dispose]();
  });

  test('comes without descriptors', () => {
    using client = new RawClient();
    using bell = Fd.eventfd('bell');
    const hello = encodeVersion({ major: 0, minor: 2, capabilities: QEMU_CAPABILITIES }, false);
    client.send(encodeCommand(1, protocol.VFIO_USER_VERSION, hello), [bell.number]);
    expect(() => client.settle()).toThrowError(/EPROTO\n.*no version in common/);
    expect(client.receive()?.errno).toBe(errno.EINVAL);
  });
});

test('a step says whether there was a message, and commands are counted', () => {
  using client = ready();
  expect([client.session.step(false), client.session.commands]).toEqual([false, 1]);
  client.send(encodeCommand(2, RESET));
  client.send(encodeCommand(3, 99));
  expect([client.session.step(false), client.session.step(), client.session.step()]).toEqual([
    true,
    true,
    false,
  ]);
  expect(client.session.commands).toBe(3);
});

test('a refusal is traced, and what is no errno is EIO', () => {
  using client = ready();
  const texts: string[] = [];
  const hear = ({ text }: { readonly text?: string }) => void texts.push(text ?? '');
  trace.vfioUser.subscribe(hear);
  client.card.reset = () => {
    throw new RangeError('it sticks');
  };
  expect(codeOf(client.ask(RESET))).toBe(errno.EIO);
  trace.vfioUser.unsubscribe(hear);
  expect(texts.join()).toMatch(/VFIO_USER_DEVICE_RESET is refused: .*it sticks/);
});

describe('an access', () => {
  test('is answered with its id, command, size and range', () => {
    using client = ready();
    client.card.registers.set([1, 2, 3], 8);
    client.send(encodeCommand(0x1234, READ, bytes(8n, REGISTERS, 3)));
    client.send(encodeCommand(0x4321, WRITE, bytes(8n, REGISTERS, 2, [7, 8])));
    client.settle();
    const answers = [client.receive(), client.receive()];
    expect(answers).toEqual([
      {
        id: 0x1234,
        command: READ,
        size: 35,
        flags: 1,
        errno: 0,
        payload: bytes(8n, REGISTERS, 3, [1, 2, 3]),
        fds: [],
      },
      { id: 0x4321, command: WRITE, size: 32, flags: 1, errno: 0, payload: bytes(8n, REGISTERS, 2), fds: [] },
    ]);
    expect([...client.card.registers.subarray(7, 12)]).toEqual([0, 7, 8, 3, 0]);
  });

  test('of no bytes does not reach the device, but its range counts', () => {
    using client = ready();
    const fail = () => {
      throw new RangeError('reached');
    };
    client.card.read = fail;
    client.card.write = fail;
    for (const command of [READ, WRITE]) {
      expect(codeOf(client.ask(command, bytes(4096n, REGISTERS, 0)))).toBe(0);
      expect(codeOf(client.ask(command, bytes(4097n, REGISTERS, 0)))).toBe(errno.EINVAL);
    }
  });

  test('reads 1 MiB at most, whatever the region has', () => {
    using client = ready();
    const most = 1 << 20;
    client.card.getRegionInfo = (index) => ({ index, flags: 3, size: 2 * most, capabilities: [] });
    client.card.read = (_index, _offset, data) => data.fill(5).length;
    expect(client.ask(READ, bytes(0n, REGISTERS, most)).payload).toHaveLength(16 + most);
    expect(codeOf(client.ask(READ, bytes(0n, REGISTERS, most + 1)))).toBe(errno.EINVAL);
  });

  test('is refused if its payload ends early', () => {
    using client = ready();
    for (const [command, payload] of [
      [READ, bytes(0n, REGISTERS)],
      [WRITE, bytes(0n, REGISTERS, 2, [1])],
      [MULTI, bytes(1n, 0n, REGISTERS, 4, 0)],
    ] as const)
      expect(codeOf(client.ask(command, payload))).toBe(errno.EINVAL);
  });
});

describe('many writes', () => {
  const one = (at: number, count: number, value: bigint) => [BigInt(at), REGISTERS, count, value] as const;

  test('have 0 to 8 bytes each, and those in front of a wrong one are done', () => {
    using client = ready();
    const all = bytes(3n, ...one(8, 8, 0x0807_0605_0403_0201n), ...one(16, 1, 0xffffn), ...one(20, 9, 1n));
    expect(codeOf(client.ask(MULTI, all))).toBe(errno.EINVAL);
    expect([...client.card.registers.subarray(7, 22)]).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 0, 0, 0, 0, 0,
    ]);
    expect([...client.ask(MULTI, bytes(1n, ...one(30, 2, 0x0909n))).payload]).toEqual([...bytes(1n)]);
    expect([...client.card.registers.subarray(29, 33)]).toEqual([0, 9, 9, 0]);
  });

  test('are 4096 at most', () => {
    using client = ready();
    const all = (count: number) =>
      bytes(BigInt(count), ...Array.from({ length: count }, () => one(0, 1, 1n)).flat());
    expect(codeOf(client.ask(MULTI, all(4096)))).toBe(0);
    client.card.registers[0] = 0;
    expect(codeOf(client.ask(MULTI, all(4097)))).toBe(errno.EINVAL);
    expect(client.card.registers[0]).toBe(0);
  });
});

describe('doorbells', () => {
  const ask = (client: RawClient, doorbells: readonly RegionIoEventFd[], argsz: number) => {
    client.card.getRegionIoFds = () => doorbells;
    const { payload, fds } = client.ask(
      protocol.VFIO_USER_DEVICE_GET_REGION_IO_FDS,
      bytes(argsz, 0, REGISTERS, 0),
    );
    for (const each of fds) each[Symbol.dispose]();
    return { payload: [...payload], descriptors: fds.length };
  };

  test('come with their values, and share a descriptor', () => {
    using client = ready();
    const fd = client.card.doorbell.number;
    const doorbells = Array.from({ length: 17 }, (_, i) => ({ offset: 4 * i, size: 4, fd, datamatch: 5n }));
    const size = 16 + 17 * 40;
    const { payload, descriptors } = ask(client, doorbells, size);
    expect(descriptors).toBe(1);
    expect(payload.slice(0, 16)).toEqual([...bytes(size, 0, REGISTERS, 17)]);
    expect(payload.slice(56, 96)).toEqual([...bytes(4n, 4n, 0, 0, 1, 0, 5n)]);
    const short = ask(client, doorbells, size - 1);
    expect([short.descriptors, short.payload.length]).toEqual([0, 16]);
  });

  test.each([
    [1, 1],
    [16, 16],
    [40, 40],
    [1000, 64],
  ])('of their own descriptors come as many as the client takes (%i), %i here', (maxMsgFds, count) => {
    using client = ready({ ...QEMU_CAPABILITIES, maxMsgFds });
    using scope = new Scope();
    const own = Array.from({ length: 65 }, (_, i) => scope.own(Fd.eventfd(`doorbell ${i}`)).number);
    const doorbells = own.map((fd, i) => ({ offset: 4 * i, size: 4, fd }));
    // One that shares the first descriptor costs none.
    const [fd] = own as [number];
    const size = 16 + (count + 1) * 40;
    const { payload, descriptors } = ask(client, [...doorbells, { offset: 512, size: 4, fd }], size);
    expect(descriptors).toBe(count);
    expect(payload.slice(0, 16)).toEqual([...bytes(size, 0, REGISTERS, count + 1)]);
    expect(payload.slice(-40)).toEqual([...bytes(512n, 4n, 0, 0, 0, 0, 0n)]);
  });
});

test('a descriptor of a region goes with an answer that is whole, to the byte', () => {
  using client = ready();
  const ask = (argsz: number) => {
    const { fds } = client.ask(protocol.VFIO_USER_DEVICE_GET_REGION_INFO, bytes(argsz, 0, MEMORY, 0, 0n, 0n));
    for (const each of fds) each[Symbol.dispose]();
    return fds.length;
  };
  expect([ask(79), ask(80)]).toEqual([0, 1]);
});

test('memory is asked for in pieces that the client takes', () => {
  using client = ready({ ...QEMU_CAPABILITIES, maxDataXferSize: 48 });
  client.ask(protocol.VFIO_USER_DMA_MAP, bytes(32, 3, 0n, 0n, 4096n));
  client.send(encodeCommand(50, WRITE, bytes(BigInt(KICK), REGISTERS, 8, [0, 0, 0, 0, 0, 0, 0, 0])));
  for (const [id, command, at, count] of [
    [1, DMA_READ, 0n, 48],
    [2, DMA_READ, 48n, 16],
    [3, DMA_WRITE, 0n, 48],
    [4, DMA_WRITE, 48n, 16],
  ] as const) {
    const data = command === DMA_READ ? new Array<number>(count).fill(1) : [];
    client.send(encodeReply(id, command, bytes(at, BigInt(count), data)));
  }
  client.settle();
  const heard = Array.from({ length: 5 }, () => client.receive());
  expect(heard.map((each) => [each?.id, each?.payload.length])).toEqual([
    [1, 16],
    [2, 16],
    [3, 64],
    [4, 32],
    [50, 16],
  ]);
  expect(client.card.registers[KICK + 8]).toBe(0);
});

describe('commands that come while memory is asked for', () => {
  const kick = encodeCommand(1, WRITE, bytes(BigInt(KICK), REGISTERS, 8, [0, 0, 0, 0, 0, 0, 0, 0]));
  const refusal = (id: number) => {
    const reply = encodeReply(id, DMA_READ);
    const view = new DataView(reply.buffer, reply.byteOffset);
    view.setUint32(8, protocol.TYPE_REPLY | protocol.FLAG_ERROR, true);
    view.setUint32(12, errno.EFAULT, true);
    return reply;
  };

  function busy(commands: readonly Uint8Array[], fds: readonly number[] = []): RawClient {
    const client = ready();
    client.ask(protocol.VFIO_USER_DMA_MAP, bytes(32, 3, 0n, 0n, 4096n));
    client.send(kick);
    for (const command of commands) client.send(command, fds);
    client.send(refusal(1));
    return client;
  }
  const answers = (client: RawClient) => {
    let count = 0;
    for (let each = client.receive(); each !== undefined; each = client.receive()) count++;
    return count;
  };

  test('wait, with their descriptors, which are closed afterwards', () => {
    using bell = Fd.eventfd('bell');
    using client = busy(
      [encodeCommand(2, protocol.VFIO_USER_DEVICE_SET_IRQS, bytes(20, 0x24, 2, 0, 1))],
      [bell.number],
    );
    client.settle();
    expect(answers(client)).toBe(3);
    client.send(encodeCommand(3, protocol.VFIO_USER_DEVICE_SET_IRQS, bytes(20, 0x24, 2, 0, 1)));
    client.settle();
  });

  test.each([
    [64, true],
    [65, false],
  ])('have %i descriptors: the session goes on is %s', (total, goesOn) => {
    const each = 4;
    using bell = Fd.eventfd('bell');
    const client = ready();
    client.ask(protocol.VFIO_USER_DMA_MAP, bytes(32, 3, 0n, 0n, 4096n));
    client.send(kick);
    for (let left = total; left > 0; left -= each)
      client.send(encodeCommand(2, 99), new Array<number>(Math.min(each, left)).fill(bell.number));
    client.send(refusal(1));
    if (goesOn) client.settle();
    else
      expect(() => client.settle()).toThrowError(
        /EPROTO\n.*17 commands while an answer was awaited: .* 65 descriptors/,
      );
    client[Symbol.dispose]();
  });

  test.each([
    [1024, true],
    [1025, false],
  ])('are %i: the session goes on is %s', (count, goesOn) => {
    const client = ready();
    client.ask(protocol.VFIO_USER_DMA_MAP, bytes(32, 3, 0n, 0n, 4096n));
    const posted = encodeCommand(2, 99, new Uint8Array(0), protocol.FLAG_NO_REPLY);
    client.send(Buffer.concat([kick, ...new Array<Uint8Array>(count).fill(posted), refusal(1)]));
    if (goesOn) client.settle();
    else expect(() => client.settle()).toThrowError(/EPROTO\n.*1025 commands while an answer was awaited/);
    if (goesOn) expect(client.session.commands).toBe(3 + 1024);
    client[Symbol.dispose]();
  });

  // Each kick awaits an answer of its own. While the n-th does, one large command arrives, as the socket holds no more.
  test.each([
    [0, true],
    [1, false],
  ])('have 8 MiB and %i bytes: the session goes on is %s', (more, goesOn) => {
    const count = 64;
    const large = (bytesMore: number) =>
      encodeCommand(
        3,
        99,
        new Uint8Array((128 << 10) - protocol.HEADER_BYTES + bytesMore),
        protocol.FLAG_NO_REPLY,
      );
    const client = ready();
    client.ask(protocol.VFIO_USER_DMA_MAP, bytes(32, 3, 0n, 0n, 4096n));
    client.send(Buffer.concat([kick, ...new Array<Uint8Array>(count).fill(kick), refusal(1)]));
    client.session.step();
    for (let n = 1; n <= count; n++) {
      client.send(large(n === count ? more : 0));
      client.send(refusal(n + 1));
      if (n < count) client.session.step();
    }
    if (goesOn) client.settle();
    else
      expect(() => client.settle()).toThrowError(
        /EPROTO\n.*64 commands while an answer was awaited: 8388609 bytes/,
      );
    expect(client.session.commands).toBe(3 + count + (goesOn ? count : 0));
    client[Symbol.dispose]();
  });
});

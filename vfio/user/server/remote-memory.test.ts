import { expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import type { Channel, Message } from '../channel.js';
import { FLAG_ERROR, TYPE_REPLY, VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE } from '../protocol.js';
import { MessageMemory } from './remote-memory.js';

interface Request {
  readonly id: number;
  readonly command: number;
  readonly at: bigint;
  readonly bytes: number;
  readonly data: readonly number[];
}

/** A client: `answer` makes its messages from a request; by default it has the bytes 1, 2, 3 … and takes any. */
function client(
  answer: (request: Request) => readonly (Partial<Message> | undefined)[] = (one) => [replyTo(one)],
) {
  const requests: Request[] = [];
  let waiting: (Partial<Message> | undefined)[] = [];
  const channel = {
    send(message: Uint8Array) {
      const view = new DataView(message.buffer);
      if (view.getUint32(4, true) !== message.length) throw new Error('another size than its message');
      const request = {
        id: view.getUint16(0, true),
        command: view.getUint16(2, true),
        at: view.getBigUint64(16, true),
        bytes: Number(view.getBigUint64(24, true)),
        data: [...message.subarray(32)],
      };
      requests.push(request);
      waiting = [...answer(request)];
    },
    receive: () => waiting.shift(),
  };
  return { channel: channel as unknown as Channel, requests };
}

function replyTo({ id, command, at, bytes }: Request): Partial<Message> {
  const isRead = command === VFIO_USER_DMA_READ;
  const payload = new Uint8Array(16 + (isRead ? bytes : 0));
  for (let i = 0; isRead && i < bytes; i++) payload[16 + i] = (Number(at) + i) & 0xff;
  return { id, command, flags: TYPE_REPLY, errno: 0, payload };
}

const SECOND = 1_000;

test('an access is cut into pieces that the client accepts, each at its address', () => {
  for (const [bytes, pieces] of [
    [4, [4]],
    [5, [4, 1]],
    [8, [4, 4]],
    [0, []],
  ] as const) {
    const { channel, requests } = client();
    const memory = new MessageMemory(channel, 4, SECOND);
    const data = new Uint8Array(bytes);
    memory.rw(iova(0x1010n), data, false);
    expect([...data]).toEqual(Array.from({ length: bytes }, (_, i) => 0x10 + i));
    memory.rw(iova(0x2000n), data, true);
    const asked = (command: number, base: bigint) =>
      pieces.map((length, i) => [command, base + BigInt(4 * i), length]);
    expect(requests.map(({ command, at, bytes: length }) => [command, at, length])).toEqual([
      ...asked(VFIO_USER_DMA_READ, 0x1010n),
      ...asked(VFIO_USER_DMA_WRITE, 0x2000n),
    ]);
    const written = requests.filter(({ command }) => command === VFIO_USER_DMA_WRITE);
    expect(written.flatMap((request) => request.data)).toEqual([...data]);
    expect(requests.map(({ id }) => id)).toEqual(requests.map((_, i) => i + 1));
  }
});

test('ids start again after 65535', () => {
  const { channel, requests } = client();
  const memory = new MessageMemory(channel, 1, SECOND);
  memory.rw(iova(0n), new Uint8Array(0x1_0001), false);
  expect(requests.slice(-3).map(({ id }) => id)).toEqual([0xffff, 0, 1]);
});

test.each([
  {
    what: 'an errno',
    change: { flags: TYPE_REPLY | FLAG_ERROR, errno: errno.EFAULT },
    is: /0x40 of the client: EFAULT/,
  },
  { what: 'an error without errno', change: { flags: TYPE_REPLY | FLAG_ERROR, errno: 0 }, is: /: EIO/ },
  { what: 'another id', change: { id: 2 }, is: /: EPROTO\n.*a reply without a request/ },
  { what: 'another command', change: { command: VFIO_USER_DMA_WRITE }, is: /: EPROTO\n.*a reply without a/ },
  { what: 'too few bytes', change: { payload: new Uint8Array(19) }, is: /: EINVAL/ },
])('a reply with $what fails the access', ({ change, is }) => {
  const { channel } = client((request) => [{ ...replyTo(request), ...change }]);
  const memory = new MessageMemory(channel, 64, SECOND);
  expect(() => memory.rw(iova(0x40n), new Uint8Array(4), false)).toThrow(is);
});

test('commands that arrive before the reply are deferred; on a twin socket they are EPROTO', () => {
  const command = { id: 9, command: 13, flags: 0, errno: 0, payload: new Uint8Array(0) };
  const busy = (request: Request) => [command, undefined, replyTo(request)];
  const deferred: Message[] = [];
  const memory = new MessageMemory(client(busy).channel, 64, SECOND, (message) => deferred.push(message));
  const data = new Uint8Array(2);
  memory.rw(iova(0x30n), data, false);
  expect([...data]).toEqual([0x30, 0x31]);
  expect(deferred).toEqual([command]);
  const twin = new MessageMemory(client(busy).channel, 64, SECOND);
  expect(() => twin.rw(iova(0x30n), data, false)).toThrow(/: EPROTO\n.*on the twin socket/);
});

test('a client that does not reply in time is ETIMEDOUT', () => {
  const { channel } = client(() => []);
  const memory = new MessageMemory(channel, 64, 0);
  expect(() => memory.rw(iova(0n), new Uint8Array(1), true)).toThrow(
    /^VFIO_USER_DMA_WRITE on IOVA 0x0 of the client: ETIMEDOUT/,
  );
});

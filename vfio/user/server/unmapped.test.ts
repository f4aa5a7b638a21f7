/** Accesses outside a client's maps, which the client decides on. */
import { afterEach, expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { sleep } from '../../../sys/child.js';
import { errno } from '../../../sys/errno.js';
import type { SysError } from '../../../sys/error.js';
import { encodeReply } from '../message.js';
import {
  VFIO_USER_DMA_READ as DMA_READ,
  VFIO_USER_DMA_WRITE as DMA_WRITE,
  FLAG_ERROR,
  TYPE_REPLY,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DMA_MAP,
} from '../protocol.js';
import { bytes } from '../testing/peers/session.js';
import { type Answer, QEMU_CAPABILITIES, RawClient } from '../testing/raw-client.js';

/** Where the client has mapped nothing. */
const OUTSIDE = iova(0x8000_0000n);
const LATE_MS = 200;

const clients: RawClient[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client[Symbol.dispose]();
});

function ready(capabilities: Parameters<RawClient['negotiate']>[0] = QEMU_CAPABILITIES): RawClient {
  const client = new RawClient(false, LATE_MS);
  clients.push(client);
  client.negotiate(capabilities);
  return client;
}

/** Begins an access; how it ends, once it has. */
function access(
  client: RawClient,
  data: Uint8Array,
  isWrite: boolean,
): { readonly ends: (string | undefined)[] } {
  const ends: (string | undefined)[] = [];
  client.card.dma?.unmapped?.access(OUTSIDE, data, isWrite, (error?: SysError) => ends.push(error?.message));
  return { ends };
}
const heard = (client: RawClient): readonly unknown[] => {
  const all: Answer[] = [];
  for (let each = client.receive(); each !== undefined; each = client.receive()) all.push(each);
  return all.map(({ command, payload }) => {
    const view = new DataView(payload.buffer, payload.byteOffset);
    return [
      command,
      view.getBigUint64(0, true),
      Number(view.getBigUint64(8, true)),
      [...payload.subarray(16)],
    ];
  });
};
const answer = (id: number, command: number, data: readonly number[] = []): Uint8Array =>
  encodeReply(id, command, bytes(OUTSIDE, BigInt(data.length), [...data]));
function refusal(id: number, command: number, code: number): Uint8Array {
  const reply = encodeReply(id, command);
  const view = new DataView(reply.buffer, reply.byteOffset);
  view.setUint32(8, TYPE_REPLY | FLAG_ERROR, true);
  view.setUint32(12, code, true);
  return reply;
}

test('is asked for by message, and the client’s commands are answered before it answers', () => {
  const client = ready();
  const data = new Uint8Array(3);
  const { ends } = access(client, data, false);
  expect(heard(client)).toEqual([[DMA_READ, OUTSIDE, 3, []]]);
  expect(client.ask(VFIO_USER_DEVICE_GET_INFO, bytes(16, 0, 0, 0)).payload).toHaveLength(16);
  expect(ends).toEqual([]);
  client.send(answer(1, DMA_READ, [7, 8, 9]));
  client.settle();
  expect([ends, ...data]).toEqual([[undefined], 7, 8, 9]);
});

test('is written in pieces that the client takes', () => {
  const client = ready({ ...QEMU_CAPABILITIES, maxDataXferSize: 2 });
  const { ends } = access(client, Uint8Array.of(1, 2, 3), true);
  client.send(answer(1, DMA_WRITE));
  client.settle();
  expect([heard(client), ends]).toEqual([
    [
      [DMA_WRITE, OUTSIDE, 2, [1, 2]],
      [DMA_WRITE, OUTSIDE + 2n, 1, [3]],
    ],
    [],
  ]);
  client.send(answer(2, DMA_WRITE));
  client.settle();
  expect(ends).toEqual([undefined]);
});

test('fails as the client says, also by an answer that is too short', () => {
  const client = ready();
  const [written, read] = [access(client, new Uint8Array(4), true), access(client, new Uint8Array(4), false)];
  client.send(refusal(1, DMA_WRITE, errno.ENODEV));
  client.send(answer(2, DMA_READ, [1, 2, 3]));
  client.settle();
  expect(written.ends).toEqual(['VFIO_USER_DMA_WRITE on IOVA 0x80000000 of the client: ENODEV']);
  expect(read.ends).toEqual([expect.stringMatching(/^VFIO_USER_DMA_READ .*: EINVAL/)]);
});

test('of a client that does not answer is ETIMEDOUT, and it stays, unasked until it answers', () => {
  const client = ready();
  const first = access(client, new Uint8Array(4), true);
  client.settle();
  expect(first.ends).toEqual([]);
  sleep(LATE_MS + 10);
  client.settle();
  const late = expect.stringMatching(/^VFIO_USER_DMA_WRITE .*: ETIMEDOUT\n.*has not replied for 0.2 s/);
  expect(first.ends).toEqual([late]);
  expect(heard(client)).toHaveLength(1);
  expect(access(client, new Uint8Array(4), true).ends).toEqual([late]);
  expect(heard(client)).toEqual([]);
  expect(client.ask(VFIO_USER_DEVICE_GET_INFO, bytes(16, 0, 0, 0)).payload).toHaveLength(16);
  client.send(answer(1, DMA_WRITE)); // too late to count
  client.settle();
  const again = access(client, new Uint8Array(4), true);
  expect(heard(client)).toHaveLength(1);
  client.send(answer(2, DMA_WRITE));
  client.settle();
  expect([first.ends, again.ends]).toEqual([[late], [undefined]]);
});

test('waits for 16 answers at most', () => {
  const client = ready();
  const all = Array.from({ length: 17 }, () => access(client, new Uint8Array(1), true));
  expect(heard(client)).toHaveLength(16);
  expect(all.map(({ ends }) => ends)).toEqual([
    ...new Array(16).fill([]),
    [expect.stringMatching(/EBUSY\n.*16 accesses wait/)],
  ]);
});

test('is answered after an access of a map that waits meanwhile', () => {
  const client = ready();
  client.ask(VFIO_USER_DMA_MAP, bytes(32, 3, 0n, 0n, 4096n));
  const { ends } = access(client, new Uint8Array(1), true);
  client.send(answer(1, DMA_WRITE));
  client.send(encodeReply(2, DMA_READ, bytes(0n, 1n, [5])));
  const data = new Uint8Array(1);
  client.card.dma?.rw(iova(0n), data, false);
  expect([...data, ends]).toEqual([5, []]);
  client.settle();
  expect(ends).toEqual([undefined]);
});

test('ends the connection by an answer of another command', () => {
  const client = ready();
  access(client, new Uint8Array(1), true);
  client.send(answer(1, DMA_READ, [1]));
  expect(() => client.settle()).toThrow(/EPROTO\n.*without a request/);
});

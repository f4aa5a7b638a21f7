/** A server's requests on the twin socket. */
import { constants } from 'node:os';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import type { EventContext } from '../../../sys/event-task.js';
import { Mapping, PROT_READ, PROT_WRITE } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { createDmaTable, DmaTableWriter } from '../../dma-table.js';
import { VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import { Channel } from '../channel.js';
import { encodeCommand, encodeReply, Writer } from '../message.js';
import * as protocol from '../protocol.js';
import { DMA_BYTES, KICK, REGISTERS } from '../testing/card.js';
import { startPeer, withEventThread } from '../testing/peer.js';
import { userProvider } from './provider.js';
import { start } from './twin-task.js';

const { errno } = constants;
const { VFIO_USER_DMA_READ: DMA_READ, VFIO_USER_DMA_WRITE: DMA_WRITE } = protocol;
const PAGE = 4096;

test('a server reaches memory of this process alone while the machine thread does something else', async () => {
  await using peer = await startPeer();
  await withEventThread((thread) => {
    using scope = new Scope();
    const provider = userProvider(thread);
    const found = scope.own(provider.resolve(`vfio-user:${peer.path}`, {}));
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(found.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    const device = scope.own(group.getDeviceFd(found.name));
    using memory = Mapping.anonymous(PAGE);
    const byte = () => Atomics.load(memory.view.slice(0, PAGE), 100);
    // Above and below it, for an entry that is neither first nor last.
    using others = Mapping.anonymous(2 * PAGE);
    for (const [at, vaddr] of [
      [0x20_0000n, others.hva],
      [0x10_0000n, memory.hva],
      [0n, others.hva],
    ] as const)
      container.mapDma({ flags: 3, vaddr, iova: iova(at), size: BigInt(PAGE) });
    const registers = device.getRegionInfo(REGISTERS).offset;
    const kick = new Uint8Array(BigUint64Array.of(0x10_0064n).buffer);
    device.write(registers + KICK, kick); // posted: no reply is awaited
    const deadline = performance.now() + 30_000;
    while (byte() === 0 && performance.now() < deadline);
    expect(byte()).toBe(1);
    expect(Atomics.load(memory.view.slice(0, PAGE), 100 + DMA_BYTES)).toBe(0);
    container.unmapDma({ flags: 0, iova: iova(0x10_0000n), size: BigInt(PAGE) });
    const isFailed = new Uint8Array(1);
    device.write(registers + KICK, kick);
    device.read(registers + KICK + 8, isFailed);
    expect([isFailed[0], byte()]).toEqual([1, 1]);
  });
});

/** The task in this thread, with a server's end of its socket. */
let scope: Scope;
let server: Channel;
let table: DmaTableWriter;
/** What the task waits for, and its notices. */
let waiting: { what: 'read' | 'write' | 'after'; go: () => void } | undefined;
let notices: unknown[];

beforeEach(() => {
  scope = new Scope();
  const [near, far] = unixSocketPair('twin');
  scope.own(near);
  server = scope.own(new Channel(far));
  server.setTimeouts(1000, 1000);
  table = new DmaTableWriter(createDmaTable(16));
  notices = [];
  const wait = (what: 'read' | 'write' | 'after') => (go: () => void) => {
    waiting = { what, go };
    return { [Symbol.dispose]: () => undefined };
  };
  const context: EventContext = {
    watch: (_fd, ready) => wait('read')(ready),
    watchWritable: (_fd, ready) => wait('write')(ready),
    after: (_ms, callback) => wait('after')(callback),
    notify: (message) => void notices.push(message),
  };
  const task = start({ fd: near.number, table: table.buffer }, context);
  scope.defer(() => task.stop());
});

afterEach(() => scope[Symbol.dispose]());

/** Sends a request, and returns the reply's errno and data. */
function ask(command: number, at: number, count: number, data: Uint8Array = new Uint8Array(0)) {
  const payload = new Writer(16 + data.length).u64(at).u64(count).data(data).bytes;
  server.send(encodeCommand(1, command, payload));
  waiting?.go();
  const reply = server.receive();
  return { errno: reply?.errno, data: [...(reply?.payload.subarray(16) ?? [])] };
}

test('a request may span maps, within their rights', () => {
  using memory = Mapping.anonymous(3 * PAGE);
  const address = Number(memory.hva);
  table.replace([
    { iova: 0, bytes: PAGE, address, prot: PROT_READ | PROT_WRITE },
    { iova: PAGE, bytes: PAGE, address: address + 2 * PAGE, prot: PROT_READ },
  ]);
  memory.view.slice(PAGE - 1, 1)[0] = 7;
  memory.view.slice(2 * PAGE, 1)[0] = 8;
  expect(ask(DMA_READ, PAGE - 1, 2)).toEqual({ errno: 0, data: [7, 8] });
  expect(ask(DMA_WRITE, PAGE - 1, 1, Uint8Array.of(9))).toEqual({ errno: 0, data: [] });
  expect(memory.view.slice(PAGE - 1, 1)[0]).toBe(9);
  expect(ask(DMA_WRITE, PAGE - 1, 2, Uint8Array.of(1, 1)).errno).toBe(errno.EPERM);
  expect(ask(DMA_READ, 2 * PAGE - 1, 2).errno).toBe(errno.EFAULT);
  expect(ask(DMA_READ, 0, 2 ** 21).errno).toBe(errno.EINVAL);
  expect(ask(DMA_WRITE, 0, 8, Uint8Array.of(1)).errno).toBe(errno.EINVAL);
  expect(ask(protocol.VFIO_USER_DEVICE_RESET, 0, 0).errno).toBe(errno.EINVAL);
  expect(notices).toEqual([]);
});

test('a server that does not read its replies waits for itself only', () => {
  const bytes = 1 << 20;
  using memory = Mapping.anonymous(bytes);
  table.replace([{ iova: 0, bytes, address: Number(memory.hva), prot: PROT_READ }]);
  const request = encodeCommand(1, DMA_READ, new Writer(16).u64(0).u64(bytes).bytes);
  const REQUESTS = 20;
  for (let i = 0; i < REQUESTS; i++) server.send(request);
  waiting?.go(); // a send that blocks would never return
  expect(waiting?.what).toBe('write');
  for (let got = 0; got < REQUESTS; ) {
    const reply = server.receive(false);
    if (reply === undefined) waiting?.go();
    else {
      got++;
      expect(reply.payload.length).toBe(16 + bytes);
    }
  }
});

test('an answer to nothing, or what is no message, ends it with a notice', () => {
  server.send(encodeReply(1, DMA_READ));
  waiting?.go();
  expect(notices).toEqual([{ problem: expect.stringMatching(/EPROTO/) }]);
});

test('a server that hangs up is told by the main socket', () => {
  server[Symbol.dispose]();
  waiting?.go();
  expect(notices).toEqual([]);
});

import { ftruncateSync, readFileSync, readSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { expect, test } from 'vitest';
import { Fd } from '../../../sys/fd.js';
import { isForeign } from '../../../sys/foreign-fds.js';
import * as libc from '../../../sys/libc.js';
import { createSharedMemory, liveMappings, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { trace } from '../../../sys/trace.js';
import {
  decodeRegionInfo,
  encodeMessage,
  encodeReply,
  Reader,
  regionInfoRequest,
  Writer,
} from '../message.js';
import * as protocol from '../protocol.js';
import { CONFIG, DMA_BYTES, DOORBELL, KICK, MEMORY, MEMORY_BYTES, MSIX, REGISTERS } from '../testing/card.js';
import { type Answer, QEMU_CAPABILITIES, RawClient } from '../testing/raw-client.js';

const { errno } = constants;
const O_NONBLOCK = 0o4000;
const F_GETFL = 3;
const F_SETFL = 4;

/** errno of an answer; 0 if it is none of failure. */
const errorOf = ({ flags, errno: code }: { flags: number; errno: number }): number =>
  (flags & protocol.FLAG_ERROR) === 0 ? 0 : code;

function ready(trustsClient = false): RawClient {
  const client = new RawClient(trustsClient);
  expect(errorOf(client.negotiate())).toBe(0);
  return client;
}

const access = (offset: number, region: number, count: number, data: Uint8Array = new Uint8Array(0)) =>
  new Writer(16 + data.length).u64(offset).u32(region).u32(count).data(data).bytes;
const read = (client: RawClient, region: number, offset: number, count: number) =>
  client.ask(protocol.VFIO_USER_REGION_READ, access(offset, region, count)).payload.subarray(16);
const write = (client: RawClient, region: number, offset: number, data: Uint8Array) =>
  client.ask(protocol.VFIO_USER_REGION_WRITE, access(offset, region, data.length, data));
const dmaMap = (at: bigint, size: bigint, flags = 3, offset = 0n) =>
  new Writer(32).u32(32).u32(flags).u64(offset).u64(at).u64(size).bytes;
const dmaUnmap = (at: bigint, size: bigint, flags = 0) =>
  new Writer(24).u32(24).u32(flags).u64(at).u64(size).bytes;
const u64 = (value: bigint) => new Writer(8).u64(value).bytes;
const setIrqs = (flags: number, index: number, start: number, count: number) =>
  new Writer(20).u32(20).u32(flags).u32(index).u32(start).u32(count).bytes;

test('QEMU’s client gets an answer that is no longer than its question, and that it accepts', () => {
  using client = new RawClient();
  const qemu =
    '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, ' +
    '"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}';
  const payload = new Writer(4 + qemu.length + 1).u16(0).u16(0).data(Buffer.from(qemu)).bytes;
  const answer = client.ask(protocol.VFIO_USER_VERSION, payload);
  expect(errorOf(answer)).toBe(0);
  expect(answer.payload.length).toBeLessThanOrEqual(payload.length);
  expect(answer.payload[2]).toBe(0); // minor: what was proposed
  const { capabilities } = JSON.parse(Buffer.from(answer.payload.subarray(4, -1)).toString());
  expect(capabilities).toEqual({
    max_msg_fds: 16,
    max_data_xfer_size: 1 << 20,
    max_dma_maps: 65_535,
    pgsizes: 4096,
    write_multiple: true,
  });
});

test('a client without JSON is taken, and told of no capability, as it proposes none', () => {
  using client = new RawClient();
  const version = new Writer(4).u16(0).u16(1).bytes;
  const answer = client.ask(protocol.VFIO_USER_VERSION, version);
  expect(errorOf(answer)).toBe(0);
  const { capabilities } = JSON.parse(Buffer.from(answer.payload.subarray(4, -1)).toString());
  expect(Object.keys(capabilities)).toEqual(['max_msg_fds', 'max_data_xfer_size', 'max_dma_maps', 'pgsizes']);
});

test.each([
  ['of another major version', 999, '', errno.EOPNOTSUPP],
  ['whose JSON does not end', 0, '{}', errno.EINVAL],
  ['with pages of less than 4 KiB', 0, '{"capabilities":{"pgsizes":4095}}\0', errno.EINVAL],
])('a client %s is told so, and sent away', (_what, major, json, code) => {
  using client = new RawClient();
  const payload = new Writer(4 + json.length).u16(major).u16(1).data(Buffer.from(json)).bytes;
  client.send(encodeMessage({ id: 1, command: protocol.VFIO_USER_VERSION, flags: 0 }, payload));
  expect(() => client.settle()).toThrowError(/EPROTO\n.*no version in common/);
  expect(errorOf(client.receive() as Answer)).toBe(code);
});

test('before the versions nothing is answered but EINVAL, and a second version neither', () => {
  using client = new RawClient();
  expect(errorOf(client.ask(protocol.VFIO_USER_DEVICE_RESET))).toBe(errno.EINVAL);
  client.negotiate();
  expect(errorOf(client.negotiate())).toBe(errno.EINVAL);
  expect(client.card.resets).toBe(0);
  expect(errorOf(client.ask(protocol.VFIO_USER_DEVICE_RESET))).toBe(0);
  expect(client.card.resets).toBe(1);
});

test('registers are read and written, alone and many at once, and no further than their end', () => {
  using client = ready();
  expect(errorOf(write(client, REGISTERS, 8, Uint8Array.of(1, 2, 3, 4)))).toBe(0);
  expect([...read(client, REGISTERS, 6, 6)]).toEqual([0, 0, 1, 2, 3, 4]);
  const multi = new Writer(8 + 2 * 24).u64(2);
  for (const at of [0x20, 0x28])
    multi
      .u64(at)
      .u32(REGISTERS)
      .u32(4)
      .data(Uint8Array.of(at, at, at, at, 9, 9, 9, 9));
  expect(new Reader(15, client.ask(protocol.VFIO_USER_REGION_WRITE_MULTI, multi.bytes).payload).u64()).toBe(
    2n,
  );
  expect([...read(client, REGISTERS, 0x28, 6)]).toEqual([0x28, 0x28, 0x28, 0x28, 0, 0]);
  for (const [offset, region, count] of [
    [4094, REGISTERS, 4],
    [0, 1, 4],
    [0, 99, 4],
    [256, CONFIG, 1],
    [0, REGISTERS, 0x7fff_ffff],
  ] as const)
    expect(errorOf(client.ask(protocol.VFIO_USER_REGION_READ, access(offset, region, count)))).toBe(
      errno.EINVAL,
    );
});

test('a posted write has no answer, not even one of failure', () => {
  using client = ready();
  const flags = protocol.FLAG_NO_REPLY;
  for (const offset of [0, 99_999]) {
    const payload = access(offset, REGISTERS, 1, Uint8Array.of(7));
    client.send(encodeMessage({ id: 9, command: protocol.VFIO_USER_REGION_WRITE, flags }, payload));
  }
  client.settle();
  expect(client.receive()).toBeUndefined();
  expect(client.card.registers[0]).toBe(7);
});

test('a region that can be mapped comes with its areas and a descriptor, if there is room in the answer', () => {
  using client = ready();
  const command = protocol.VFIO_USER_DEVICE_GET_REGION_INFO;
  const short = client.ask(command, regionInfoRequest(32, MEMORY));
  const { argsz, capabilities } = decodeRegionInfo(command, short.payload);
  expect([short.fds.length, capabilities.length, argsz]).toEqual([0, 0, 32 + 16 + 2 * 16]);
  const whole = client.ask(command, regionInfoRequest(argsz, MEMORY));
  const info = decodeRegionInfo(command, whole.payload);
  expect(info).toMatchObject({ size: MEMORY_BYTES, fdOffset: 0, flags: 0xf });
  const [fd] = whole.fds;
  if (fd === undefined) throw new RangeError('no descriptor');
  using mapped = Mapping.file(fd, 4096, { offset: 8192 });
  fd[Symbol.dispose]();
  write(client, MEMORY, 8192, Uint8Array.of(0xab));
  expect(mapped.view.slice(0, 1)[0]).toBe(0xab);
});

test('a doorbell comes as a descriptor that the device watches', () => {
  using client = ready();
  const command = protocol.VFIO_USER_DEVICE_GET_REGION_IO_FDS;
  const question = (argsz: number) => new Writer(16).u32(argsz).u32(0).u32(REGISTERS).u32(0).bytes;
  expect(client.ask(command, question(16)).fds).toEqual([]);
  for (const [flags, count] of [
    [1, 0],
    [0, 1],
  ] as const) {
    const wrong = new Writer(16).u32(64).u32(flags).u32(REGISTERS).u32(count).bytes;
    expect(errorOf(client.ask(command, wrong))).toBe(errno.EINVAL);
  }
  const { payload, fds } = client.ask(command, question(64));
  const reader = new Reader(command, payload);
  expect([reader.u32(), reader.u32(), reader.u32(), reader.u32()]).toEqual([56, 0, REGISTERS, 1]);
  expect([reader.u64(), reader.u64(), reader.u32()]).toEqual([BigInt(DOORBELL), 4n, 0]);
  using fd = fds[0] as Fd;
  const count = new Uint8Array(8);
  expect(() => readSync(client.card.doorbell.number, count)).toThrowError(/EAGAIN/);
  expect(fd.isOpen).toBe(true);
  // The client can make it block: the device rings it accordingly.
  expect(isForeign(client.card.doorbell.number)).toBe(true);
});

test('an interrupt whose eventfd the client has filled and made blocking does not block the server, which changes nothing', () => {
  using client = ready(true);
  using memory = createSharedMemory('client', 8192);
  using bell = Fd.eventfd('vector 0');
  writeSync(bell.number, new Uint8Array(BigUint64Array.of(2n ** 64n - 2n).buffer));
  const flagsOf = () => libc.fcntl(bell.number, F_GETFL, 0);
  libc.fcntl(bell.number, F_SETFL, flagsOf() & ~O_NONBLOCK);
  const flags = flagsOf();
  client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0n, 8192n), [memory.fd.number]);
  client.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, setIrqs(0x24, MSIX, 0, 1), [bell.number]);
  expect(flagsOf()).toBe(flags);
  expect(errorOf(write(client, REGISTERS, KICK, u64(0n)))).toBe(0); // a write to the eventfd would never return
  expect(flagsOf()).toBe(flags);
});

test('the device reaches memory that the client shares, raises its interrupt, and loses both', () => {
  using client = ready();
  using memory = createSharedMemory('client', 8192);
  using bell = Fd.eventfd('vector 0');
  // What is not sealed is mapped for a trusted client only.
  using trusted = ready(true);
  for (const [who, isMapped] of [
    [client, false],
    [trusted, true],
  ] as const) {
    memory.mapping.view.slice(0, 8192).fill(1);
    expect(errorOf(who.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0x10_0000n, 8192n), [memory.fd.number]))).toBe(
      0,
    );
    expect(
      errorOf(who.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, setIrqs(0x24, MSIX, 0, 1), [bell.number])),
    ).toBe(0);
    if (!isMapped) continue;
    write(who, REGISTERS, KICK, u64(0x10_1000n));
    expect([...memory.mapping.view.slice(4095, 3)]).toEqual([1, 2, 2]);
    const count = new Uint8Array(8);
    expect(readSync(bell.number, count)).toBe(8);
    expect(errorOf(who.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, setIrqs(0x24, MSIX, 0, 1)))).toBe(0);
    write(who, REGISTERS, KICK, u64(0x10_1000n));
    expect(() => readSync(bell.number, count)).toThrowError(/EAGAIN/);
    expect(errorOf(who.ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(0x10_0000n, 4096n)))).toBe(errno.EINVAL);
    expect(errorOf(who.ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(0x10_0000n, 8192n)))).toBe(0);
    memory.mapping.view.slice(4096, 64).fill(5);
    write(who, REGISTERS, KICK, u64(0x10_1000n));
    expect(memory.mapping.view.slice(4096, 1)[0]).toBe(5);
    expect(who.card.registers[KICK + 8]).toBe(1);
  }
});

test.each(['on the main socket', 'on a twin socket'])(
  'memory that the client does not share is asked for %s',
  (where) => {
    using client = new RawClient();
    const isTwin = where.includes('twin');
    const twinSocket = isTwin ? { fdIndex: undefined } : undefined;
    const { payload: version, fds } = client.negotiate({ ...QEMU_CAPABILITIES, twinSocket });
    expect(Buffer.from(version).toString()).toMatch(
      isTwin ? /"twin_socket":\{"supported":true,"fd_index":0\}/ : /pgsizes/,
    );
    expect(fds).toHaveLength(isTwin ? 1 : 0);
    client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0n, 0x10_0000n));
    // The server waits inside of the write, so the answers are there before it asks.
    const data = new Uint8Array(DMA_BYTES).fill(41);
    const head = new Writer(16).u64(0x1000).u64(DMA_BYTES).bytes;
    const answers = [
      encodeReply(1, protocol.VFIO_USER_DMA_READ, Buffer.concat([head, data])),
      encodeReply(2, protocol.VFIO_USER_DMA_WRITE, head),
    ];
    const kick = encodeMessage(
      { id: 77, command: protocol.VFIO_USER_REGION_WRITE, flags: 0 },
      access(KICK, REGISTERS, 8, u64(0x1000n)),
    );
    const twin = fds[0];
    client.send(kick);
    // A command that comes in between is answered afterwards.
    const between = { id: 78, command: protocol.VFIO_USER_DEVICE_RESET, flags: 0 };
    client.send(encodeMessage(between));
    for (const answer of answers) {
      if (twin === undefined) client.send(answer);
      else writeSync(twin.number, answer);
    }
    client.settle();
    const got: { id: number; command: number; payload: Uint8Array }[] = [];
    for (let message = client.receive(); message !== undefined; message = client.receive()) got.push(message);
    const onMain = got.map(({ id }) => id);
    expect(onMain).toEqual(isTwin ? [77, 78] : [1, 2, 77, 78]);
    if (!isTwin) expect([...(got[1]?.payload.subarray(16, 18) ?? [])]).toEqual([42, 42]);
    expect(client.card.registers[KICK + 8]).toBe(0);
    twin?.[Symbol.dispose]();
  },
);

test('an unmap wider than its maps takes those inside, cuts none, and may find none', () => {
  using client = ready();
  const page = 4096n;
  const ask = (command: number, payload: Uint8Array) => errorOf(client.ask(command, payload));
  const map = (at: bigint) => ask(protocol.VFIO_USER_DMA_MAP, dmaMap(at, page));
  const unmap = (at: bigint, size: bigint) => ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(at, size));
  // What QEMU sends when a guest's IOMMU, or the guest, is reset.
  expect([map(0xffff_7000n), map(0xffff_8000n)]).toEqual([0, 0]);
  expect(unmap(0xff00_0000n, 0x100_0000n)).toBe(0);
  expect([map(0xffff_7000n), map(0xffff_8000n)]).toEqual([0, 0]);
  expect(unmap(0x1000_0000n, 0x100_0000n)).toBe(0); // nothing is there
  expect(ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0x2000_0000n, 4n * page))).toBe(0);
  expect(unmap(0x2000_1000n, page)).toBe(errno.EINVAL);
  expect(unmap(0x1fff_f000n, 2n * page)).toBe(errno.EINVAL);
  expect(unmap(0x2000_3000n, 2n * page)).toBe(errno.EINVAL);
  expect(ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0x2000_0000n, page))).toBe(errno.EEXIST);
  expect(unmap(0x1fff_f000n, 8n * page)).toBe(0);
  expect(ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0x2000_0000n, page))).toBe(0);
});

test.each([
  ['a map without access', dmaMap(0n, 4096n, 0)],
  ['a map with unknown flags', dmaMap(0n, 4096n, 7)],
  ['a map of no bytes', dmaMap(0n, 0n)],
  ['a map off the page', dmaMap(1n, 4096n)],
  ['a map that wraps', dmaMap(0xffff_ffff_ffff_f000n, 0x2000n)],
  ['a map behind the end of its file', dmaMap(0n, 0x20_0000n)],
])('%s is refused', (_what, payload) => {
  using client = ready(true);
  using memory = createSharedMemory('client', 8192);
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, payload, [memory.fd.number]))).toBe(errno.EINVAL);
});

test('descriptors that are no memory, or no eventfd, are refused', () => {
  using client = ready(true);
  using bell = Fd.eventfd('no memory');
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0n, 4096n), [bell.number]))).toBe(
    errno.EINVAL,
  );
  using memory = createSharedMemory('client', 4096);
  const fds = [memory.fd.number, memory.fd.number];
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0n, 4096n), fds))).toBe(errno.EINVAL);
  const irqs = setIrqs(0x24, MSIX, 0, 3);
  expect(errorOf(client.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, irqs, [bell.number, bell.number]))).toBe(
    errno.EINVAL,
  );
  expect(errorOf(client.ask(protocol.VFIO_USER_DEVICE_SET_IRQS, setIrqs(0x24, MSIX, 0, 99)))).toBe(
    errno.EINVAL,
  );
});

test('a command that is not known is refused, and an answer to nothing ends the connection', () => {
  using client = ready();
  for (const command of [0, 14, 19, 0xffff]) expect(errorOf(client.ask(command))).toBe(errno.EINVAL);
  client.send(encodeReply(1, protocol.VFIO_USER_DMA_READ));
  expect(() => client.settle()).toThrowError(/EPROTO\n.*without a request/);
});

const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
const F_ADD_SEALS = 1033;
const F_SEAL_SHRINK = 2;
const HUGE_PAGE = 2 << 20;

/** Two huge pages, sealed, though the host may have none. */
function hugeMemory(scope: Scope): Fd {
  const fd = scope.own(Fd.memfd('huge', MFD_ALLOW_SEALING | MFD_HUGETLB));
  ftruncateSync(fd.number, 2 * HUGE_PAGE);
  expect(libc.fcntl(fd.number, F_ADD_SEALS, F_SEAL_SHRINK)).toBe(0);
  return fd;
}

test('sealed huge pages, which the host may not have, are asked for by message', () => {
  using scope = new Scope();
  using client = ready();
  const fd = hugeMemory(scope);
  expect(
    errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0xc_0000n, 0x4_0000n, 3, 0xc_0000n), [fd.number])),
  ).toBe(0);
  client.send(
    encodeMessage(
      { id: 5, command: protocol.VFIO_USER_REGION_WRITE, flags: 0 },
      access(KICK, REGISTERS, 8, u64(0xc_0000n)),
    ),
  );
  // The device reads: a mapping would end this process by SIGBUS. A client that does not reply is disconnected.
  expect(() => client.settle()).toThrow(expect.objectContaining({ code: 'ETIMEDOUT' }));
  expect(client.receive()?.command).toBe(protocol.VFIO_USER_DMA_READ);
});

test('huge pages of a trusted client are mapped from page to page, or refused while the host has none', () => {
  using scope = new Scope();
  using client = ready(true);
  const fd = hugeMemory(scope);
  const free = Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'utf8'));
  const expected = free >= 2 ? 0 : errno.ENOMEM;
  for (const [offset, size] of [
    [0xc_0000n, 0x4_0000n],
    [0n, 0xa_0000n],
  ] as const)
    expect(
      errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(offset, size, 3, offset), [fd.number])),
    ).toBe(expected);
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(0n, 0x10_0000n)))).toBe(0);
});

test('one file is mapped once, however many maps a client makes of it, and no longer than they are there', () => {
  using client = ready(true);
  using memory = createSharedMemory('client', 64 * 4096);
  const before = liveMappings();
  for (let i = 0; i < 64; i++) {
    const at = BigInt(i) * 4096n;
    expect(
      errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(at * 2n, 4096n, 3, at), [memory.fd.number])),
    ).toBe(0);
  }
  expect(liveMappings() - before).toBe(1);
  memory.mapping.view.slice(5 * 4096, 64).fill(1);
  write(client, REGISTERS, KICK, u64(10n * 4096n));
  expect(memory.mapping.view.slice(5 * 4096, 1)[0]).toBe(2);
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(0n, 126n * 4096n)))).toBe(0);
  expect(liveMappings() - before).toBe(1);
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(126n * 4096n, 4096n)))).toBe(0);
  expect(liveMappings()).toBe(before);
});

test('a client cannot have more mapped than the limit, in a file however large', () => {
  using client = ready(true);
  using sparse = Fd.memfd('sparse');
  ftruncateSync(sparse.number, 2 ** 45);
  const size = 2n ** 41n;
  const answers = [0n, 1n, 2n, 3n].map((i) =>
    errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(i * size, size, 3, i * size), [sparse.number])),
  );
  expect(answers).toEqual([0, 0, errno.ENOSPC, errno.ENOSPC]);
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_UNMAP, dmaUnmap(0n, size)))).toBe(0);
  expect(errorOf(client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(0n, size), [sparse.number]))).toBe(0);
});

test('many files are many mappings, of which a client has 4096', () => {
  using client = ready(true);
  const answers = new Map<number, number>();
  for (let i = 0; i < 4100; i++) {
    using file = Fd.memfd('one of many');
    ftruncateSync(file.number, 4096);
    const code = errorOf(
      client.ask(protocol.VFIO_USER_DMA_MAP, dmaMap(BigInt(i) * 4096n, 4096n), [file.number]),
    );
    answers.set(code, (answers.get(code) ?? 0) + 1);
  }
  expect([...answers]).toEqual([
    [0, 4096],
    [errno.ENOSPC, 4],
  ]);
}, 120_000);

test('a session whose device cannot be closed ends all the same', () => {
  const told: string[] = [];
  const hear = ({ text }: { readonly text?: string }) => told.push(text ?? '');
  trace.vfioUser.subscribe(hear);
  const client = ready();
  client.card.closeDevice = () => {
    throw new RangeError('it sticks');
  };
  client.session[Symbol.dispose]();
  trace.vfioUser.unsubscribe(hear);
  expect(told.join()).toMatch(/not all .* is released: .*it sticks/);
  try {
    client[Symbol.dispose]();
  } catch {
    // the card's core complains, too
  }
});

test('a client that says nothing has until the deadline', () => {
  using client = new RawClient();
  expect(client.session.step(false)).toBe(false);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  expect(() => client.session.step(false)).toThrowError(/ETIMEDOUT\n.*no VFIO_USER_VERSION/);
  using other = ready();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  expect(other.session.step(false)).toBe(false);
});

test.each([2, 5])('a write of 1 byte that has %i is refused', (count) => {
  using client = ready();
  const payload = access(8, REGISTERS, 1, new Uint8Array(count).fill(1));
  expect(errorOf(client.ask(protocol.VFIO_USER_REGION_WRITE, payload))).toBe(errno.EINVAL);
  expect(client.card.registers[8]).toBe(0);
});

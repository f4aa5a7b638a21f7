/** What a server sends while the client waits: descriptors that nobody asked for, and DMA at the edges of a map's life. */
import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import type { EventTask } from '../../../sys/event-task.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, type SharedMemory } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { type ContainerFile, type DeviceFile, VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import {
  VFIO_USER_DMA_WRITE as DMA_WRITE,
  VFIO_USER_DMA_MAP as MAP,
  VFIO_USER_REGION_READ as READ,
  VFIO_USER_DEVICE_RESET as RESET,
  VFIO_USER_DMA_UNMAP as UNMAP,
} from '../protocol.js';
import { noEvents } from '../testing/peer.js';
import { attach, pinInterrupt } from '../testing/peers/libvfio-user.js';
import { bytes, client, type Line, server } from '../testing/peers/session.js';
import { playServer } from '../testing/scripted-server.js';
import { hasNews } from './connection.js';
import { userProvider } from './provider.js';

const PAGE = 4096n;

function open(
  scope: Scope,
  address: string,
  thread = noEvents,
): { container: ContainerFile; device: DeviceFile } {
  const provider = userProvider(thread);
  const found = scope.own(provider.resolve(address, {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(found.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const device = scope.own(group.getDeviceFd(found.name));
  device.getRegionInfo(7);
  return { container, device };
}

test('descriptors that come unasked with an answer are closed', async () => {
  const READS = 20;
  using spare = Fd.eventfd('spare');
  const question = client.asks(READ, bytes(0n, 7, 2));
  const answer = server.answers(READ, bytes(0n, 7, 2, [0x4f, 0x49]), { fds: ['spare', 'spare'] });
  const reads = Array.from({ length: READS }, (): readonly Line[] => [question, answer]).flat();
  await playServer([...attach, ...reads], { spare }, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    const { offset } = device.getRegionInfo(7);
    const before = readdirSync('/proc/self/fd').length;
    for (let i = 0; i < READS; i++) device.read(offset, new Uint8Array(2));
    // Those of the last answer are closed with the next one.
    expect(readdirSync('/proc/self/fd').length - before).toBeLessThanOrEqual(2);
  });
});

const mapRequest = client.asks(MAP, bytes(32, 3, 0n, 0n, PAGE), { fds: ['memory'] });
const unmapRequest = client.asks(UNMAP, bytes(24, 0, 0n, PAGE));
const dmaWrite = (byte: number): Line => server.asks(DMA_WRITE, bytes(8n, 1n, [byte]));
const dmaDone = client.answers(DMA_WRITE, bytes(8n, 1n));

const map = (container: ContainerFile, { mapping }: SharedMemory): void =>
  container.mapDma({ flags: 3, vaddr: mapping.hva, iova: iova(0n), size: PAGE });

test('a server may use a map before it has answered, and until it has answered its end', async () => {
  using memory = createSharedMemory('guest', Number(PAGE));
  const lines = [
    ...attach,
    mapRequest,
    dmaWrite(1),
    dmaDone,
    server.answers(MAP),
    unmapRequest,
    dmaWrite(2),
    dmaDone,
    server.answers(UNMAP, bytes(24, 0, 0n, PAGE)),
    client.asks(RESET),
    dmaWrite(3),
    client.refuses(DMA_WRITE, 14),
    server.answers(RESET),
  ];
  await playServer(lines, {}, (address) => {
    using scope = new Scope();
    const { container, device } = open(scope, address);
    const byte = () => memory.mapping.view.slice(8, 1)[0];
    map(container, memory);
    expect(byte()).toBe(1);
    expect(container.unmapDma({ flags: 0, iova: iova(0n), size: PAGE })).toBe(PAGE);
    expect(byte()).toBe(2);
    device.reset();
    expect(byte()).toBe(2);
  });
});

test('a map that the server refuses is none', async () => {
  using memory = createSharedMemory('guest', Number(PAGE));
  const lines = [...attach, mapRequest, server.refuses(MAP, 12), client.asks(RESET), dmaWrite(1)];
  await playServer([...lines, client.refuses(DMA_WRITE, 14), server.answers(RESET)], {}, (address) => {
    using scope = new Scope();
    const { container, device } = open(scope, address);
    expect(() => map(container, memory)).toThrowError(/ENOMEM/);
    device.reset();
    expect(memory.mapping.view.slice(8, 1)[0]).toBe(0);
  });
});

test('a request received with a reply wakes the machine thread once more, as nothing else may come', async () => {
  using pin = Fd.eventfd('pin');
  const opened = [...attach, ...pinInterrupt.slice(0, 4)];
  const asked = opened.filter((line) => 'from' in line && line.from === 'client').length;
  const lines: readonly Line[] = [
    ...opened,
    server.answers(RESET, bytes(), { id: asked + 1, isJoined: true }), // early
    dmaWrite(1),
    { signal: 'pin' },
    client.asks(RESET),
    client.refuses(DMA_WRITE, 14),
  ];
  const posted: unknown[] = [];
  const task: EventTask = {
    post: (message) => void posted.push(message),
    call: () => undefined,
    receive: undefined,
    [Symbol.dispose]: () => {},
  };
  await playServer(lines, {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address, { run: () => task });
    device.setIrqs({ index: 0, flags: 0x24, start: 0, count: 1, data: [pin.number] });
    const deadline = performance.now() + 20_000;
    while (!hasNews(pin.number) && performance.now() < deadline);
    posted.length = 0; // they may have come with the reply before
    device.reset();
    expect(posted).toEqual(['backlog']);
    task.receive?.('news');
  });
});

import { readSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { vfioConformance } from '../../testing/conformance.js';
import {
  type ContainerFile,
  type DeviceFile,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_TYPE1v2_IOMMU,
} from '../../uapi.js';
import { DMA_BYTES, DOORBELL, KICK, MEMORY, MSIX, REGISTERS } from '../testing/card.js';
import { noEvents, type Peer, startPeer, withEventThread } from '../testing/peer.js';
import { userProvider } from './provider.js';

const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const EVENTFD_TRIGGER = 0x24;

let peer: Peer;
beforeAll(async () => {
  peer = await startPeer();
});
afterAll(async () => {
  await peer[Symbol.asyncDispose]();
});

/** The card, opened through the seam. */
function open(scope: Scope, events = noEvents): { container: ContainerFile; device: DeviceFile } {
  const provider = userProvider(events);
  const found = scope.own(provider.resolve(`vfio-user:${peer.path}`, {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(found.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  return { container, device: scope.own(group.getDeviceFd(found.name)) };
}

/** What is written to the register that makes the card work on memory at an IOVA. */
const kick = (device: DeviceFile, at: bigint): void => {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setBigUint64(0, at, true);
  device.write(device.getRegionInfo(REGISTERS).offset + KICK, data);
};

/** Waits for posted writes: a read comes behind them. */
const settle = (device: DeviceFile): number => {
  const failed = new Uint8Array(1);
  device.read(device.getRegionInfo(REGISTERS).offset + KICK + 8, failed);
  return failed[0] as number;
};

test('registers are read and written, and a region is mapped by the descriptor that came with it', () => {
  using scope = new Scope();
  const { device } = open(scope);
  const { offset } = device.getRegionInfo(REGISTERS);
  device.write(offset + 4, Uint8Array.of(1, 2, 3, 4));
  const data = new Uint8Array(6);
  expect(device.read(offset + 3, data)).toBe(6);
  expect([...data]).toEqual([0, 1, 2, 3, 4, 0]);
  const memory = device.getRegionInfo(MEMORY);
  expect(memory.flags & VFIO_REGION_INFO_FLAG_MMAP).not.toBe(0);
  using mapped = device.mmap(memory.offset + 8192, 4096);
  mapped.view.slice(0, 1).set([0x5a]);
  device.read(memory.offset + 8192, data);
  expect(data[0]).toBe(0x5a);
  expect(() => device.mmap(memory.offset + 4096, 4096)).toThrowError(/EINVAL/);
});

test('the device works on shared memory, and raises its interrupt', () => {
  using scope = new Scope();
  const { container, device } = open(scope);
  using memory = createSharedMemory('guest', 16_384);
  using bell = Fd.eventfd('vector 0');
  container.mapDma({ flags: RW, vaddr: memory.mapping.hva, iova: iova(0x10_0000n), size: 16_384n });
  device.setIrqs({ index: MSIX, flags: EVENTFD_TRIGGER, start: 0, count: 2, data: [bell.number, -1] });
  memory.mapping.view.slice(4096, DMA_BYTES).fill(6);
  kick(device, 0x10_1000n);
  expect(settle(device)).toBe(0);
  expect([...memory.mapping.view.slice(4095, 3)]).toEqual([0, 7, 7]);
  expect(readSync(bell.number, new Uint8Array(8))).toBe(8);
  container.unmapDma({ flags: 0, iova: iova(0x10_0000n), size: 16_384n });
  kick(device, 0x10_1000n);
  expect(settle(device)).toBe(1);
  // The peer is a thread of this process: its descriptor would count as one of this test.
  device.setIrqs({ index: MSIX, flags: EVENTFD_TRIGGER, start: 0, count: 1, data: [-1] });
});

test('memory of this process alone is read and written for the device when it asks, within its rights', async () => {
  await withEventThread((events) => {
    using scope = new Scope();
    const { container, device } = open(scope, events);
    using memory = Mapping.anonymous(8192);
    memory.view.slice(0, 8192).fill(3);
    const map = (at: bigint, flags: number) =>
      container.mapDma({ flags, vaddr: memory.hva, iova: iova(at), size: 8192n });
    map(0n, RW);
    map(0x10_0000n, VFIO_DMA_MAP_FLAG_READ);
    kick(device, 100n);
    expect(settle(device)).toBe(0);
    expect([...memory.view.slice(99, 3)]).toEqual([3, 4, 4]);
    for (const at of [0x10_0000n, 8192n - 8n, 0x20_0000n]) {
      device.reset();
      kick(device, at);
      expect(settle(device)).toBe(1);
    }
    expect(memory.view.slice(8191, 1)[0]).toBe(3);
  });
});

test('memory of a third process is refused with ENOTSUP and its range: the server could not ask for it', () => {
  using scope = new Scope();
  const { container } = open(scope);
  const map = { flags: RW, remote: { rw: () => undefined }, iova: iova(0x10_0000n), size: 4096n };
  expect(() => container.mapDma(map)).toThrowError(
    /^VFIO_IOMMU_MAP_DMA on container \(vfio-user\), IOVA 0x100000-0x100fff: ENOTSUP/,
  );
});

test('a doorbell’s descriptor wakes the server’s device', () => {
  using scope = new Scope();
  const { device } = open(scope);
  const [doorbell, ...others] = device.getRegionIoFds(REGISTERS);
  expect(doorbell).toMatchObject({ offset: DOORBELL, size: 4 });
  expect(others).toEqual([]);
  expect(device.getRegionIoFds(MEMORY)).toEqual([]);
});

test('a server that ends reads as all-ones, and the REQ eventfd says that it is gone', async () => {
  await using other = await startPeer();
  const provider = userProvider(noEvents);
  using scope = new Scope();
  const found = scope.own(provider.resolve(`vfio-user:${other.path}`, {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(found.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const device = scope.own(group.getDeviceFd(found.name));
  using request = Fd.eventfd('req');
  device.setIrqs({ index: 4, flags: EVENTFD_TRIGGER, start: 0, count: 1, data: [request.number] });
  const { offset } = device.getRegionInfo(REGISTERS);
  await other[Symbol.asyncDispose]();
  expect(() => device.reset()).toThrowError(/ENODEV\n.*the server has disconnected/);
  const data = new Uint8Array(4);
  expect(device.read(offset, data)).toBe(4);
  expect([...data]).toEqual([255, 255, 255, 255]);
  expect(device.write(offset, data)).toBe(4);
  expect(readSync(request.number, new Uint8Array(8))).toBe(8);
});

test.each([
  [{ timeout: '0' }, /timeout=0 is not a number of seconds/],
  [{ trust: 'perhaps' }, /neither on nor off/],
  [{ speed: 'high' }, /there is no option speed; there are:\n {4}timeout/],
])('options %o are refused', (options, message) => {
  expect(() =>
    userProvider(noEvents).resolve('vfio-user:/nowhere', options as Record<string, string>),
  ).toThrowError(message);
});

describe('conformance, as of every provider', () => {
  const memory = createSharedMemory('conformance', 16 * 4096);
  afterAll(() => memory[Symbol.dispose]());
  const provider = userProvider(noEvents);
  const cases = vfioConformance({
    provider,
    get address() {
      return `vfio-user:${peer.path}`;
    },
    memory: memory.mapping,
    unusedGroup: 9999,
    hasCdev: false,
  });
  for (const { name, run } of cases) test(name, run);
});

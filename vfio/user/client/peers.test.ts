/**
 * Our client against what other people's servers say. The sessions (testing/peers) are built field by field from shapes that
 * were measured, not captured; each is played to the byte, both ways, and one frame more or less fails the test.
 */
import { ftruncateSync, readSync } from 'node:fs';
import { expect, test } from 'vitest';
import { hva, iova } from '../../../sys/address.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { type ContainerFile, type DeviceFile, VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import { VFIO_USER_DEVICE_GET_REGION_INFO, VFIO_USER_REGION_READ, VFIO_USER_VERSION } from '../protocol.js';
import { noEvents } from '../testing/peer.js';
import * as gpio from '../testing/peers/libvfio-user.js';
import * as qemu from '../testing/peers/qemu-server.js';
import * as rust from '../testing/peers/rust-vmm.js';
import { bytes, client, type Line, server, version } from '../testing/peers/session.js';
import * as spdk from '../testing/peers/spdk.js';
import { playServer } from '../testing/scripted-server.js';
import { userProvider } from './provider.js';

const EVENTFD_TRIGGER = 0x24;
const EVENTFD_UNMASK = 0x14;
const NONE_UNMASK = 0x11;
const NONE_TRIGGER = 0x21;
const MAPPABLE = 0x4;

/** The peer's device, opened through the seam. */
function open(
  scope: Scope,
  address: string,
  options: Record<string, string> = {},
): { container: ContainerFile; device: DeviceFile; description: string } {
  const provider = userProvider(noEvents);
  const found = scope.own(provider.resolve(address, options));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(found.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const device = scope.own(group.getDeviceFd(found.name));
  device.getRegionInfo(7);
  return { container, device, description: found.description };
}

const bytesAt = (device: DeviceFile, region: number, offset: number, count: number): number[] => {
  const data = new Uint8Array(count);
  device.read(device.getRegionInfo(region).offset + offset, data);
  return [...data];
};
const put = (device: DeviceFile, region: number, offset: number, ...data: number[]): void => {
  device.write(device.getRegionInfo(region).offset + offset, Uint8Array.from(data));
};
/** A file that nobody has sealed. */
const grown = (fd: Fd, bytes: number): Fd => {
  ftruncateSync(fd.number, bytes);
  return fd;
};
/** Waits for a signal of the peer's thread. */
function waitFor(bell: Fd): void {
  const until = performance.now() + 5000;
  for (;;) {
    try {
      readSync(bell.number, new Uint8Array(8));
      return;
    } catch (error) {
      if (performance.now() > until) throw error;
    }
  }
}

test('libvfio-user’s gpio: ports are read and written, and there are no doorbells', async () => {
  const session = [...gpio.attach, ...gpio.ports, ...gpio.pins, ...gpio.noDoorbells];
  await playServer(session, {}, (address) => {
    using scope = new Scope();
    const { device, description } = open(scope, address);
    expect(description).toMatch(/PCI device 494f:0dc8/);
    expect(device.getInfo()).toEqual({ flags: 3, numRegions: 9, numIrqs: 5 });
    expect(device.getRegionInfo(2)).toMatchObject({ flags: 3, size: 256, capabilities: [] });
    expect(bytesAt(device, 2, 0, 1)).toEqual([0xff]);
    put(device, 2, 0, 0x1f);
    expect(bytesAt(device, 2, 0, 1)).toEqual([0xe0]);
    expect(device.getRegionIoFds(2)).toEqual([]);
    expect(device.getRegionIoFds(0)).toEqual([]);
  });
});

test('libvfio-user’s pin does not mask itself: it is not given an eventfd to unmask it by, but unmasked by command', async () => {
  await playServer([...gpio.attach, ...gpio.pinInterrupt], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    using pin = Fd.eventfd('pin');
    using resample = Fd.eventfd('resample');
    const set = { index: 0, start: 0, count: 1 };
    expect(device.getIrqInfo(0)).toEqual({ index: 0, flags: 1, count: 1 });
    device.setIrqs({ ...set, flags: EVENTFD_TRIGGER, data: [pin.number] });
    waitFor(pin);
    expect(() => device.setIrqs({ ...set, flags: EVENTFD_UNMASK, data: [resample.number] })).toThrowError(
      /ENOTTY\n.*do not mask themselves/,
    );
    device.setIrqs({ ...set, flags: NONE_UNMASK });
    device.setIrqs({ ...set, flags: NONE_TRIGGER, count: 0 });
  });
});

test('libvfio-user: memory goes by descriptor with its place in the file, and an unmap that it refuses is one all the same', async () => {
  await playServer([...gpio.attach, ...gpio.sharedMemory], {}, (address) => {
    using scope = new Scope();
    const { container } = open(scope, address);
    using memory = createSharedMemory('guest', 0x4000);
    const start = memory.mapping.hva;
    container.mapDma({ flags: 3, vaddr: start, iova: iova(0x10_0000n), size: 0x4000n });
    container.mapDma({ flags: 1, vaddr: hva(start + 0x1000n), iova: iova(0x20_0000n), size: 0x1000n });
    expect(container.unmapDma({ flags: 0, iova: iova(0x10_0000n), size: 0x4000n })).toBe(0x4000n);
    expect(container.unmapDma({ flags: 0, iova: iova(0x20_0000n), size: 0x1000n })).toBe(0x1000n);
  });
});

test('libvfio-user: its device reads and writes memory while the write that set it off is not yet answered', async () => {
  await playServer([...gpio.attach, ...gpio.ports, ...gpio.memoryByMessage], {}, (address) => {
    using scope = new Scope();
    const { container, device } = open(scope, address);
    using memory = Mapping.anonymous(0x2000);
    device.getRegionInfo(2);
    memory.view.slice(0xffc, 8).set([1, 2, 3, 4, 5, 6, 7, 8]);
    container.mapDma({ flags: 3, vaddr: memory.hva, iova: iova(0x10_0000n), size: 0x2000n });
    put(device, 2, 8, 1, 0, 0, 0);
    expect([...memory.view.slice(0x0ffe, 8)]).toEqual([3, 4, 9, 9, 9, 9, 0, 0]);
    expect(memory.view.slice(0, 1)[0]).toBe(7);
    container.unmapDma({ flags: 0, iova: iova(0x10_0000n), size: 0x2000n });
  });
});

test.each([
  [0, 'EINVAL'],
  [0xffff_ffff, 'EINVAL'],
  [95, 'EOPNOTSUPP|ENOTSUP'],
])('an answer of failure with errno %d is %s', async (errno, code) => {
  await playServer([...gpio.attach, ...gpio.refusedReset(errno)], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    expect(() => device.reset()).toThrowError(new RegExp(code));
  });
});

test('libvfio-user’s shadow doorbell is no plain one: the guest’s writes go by message, and its descriptors are closed', async () => {
  using bell = Fd.eventfd('bell');
  using shadow = createSharedMemory('shadow', 4096);
  const session = [...gpio.attach, ...gpio.ports, ...gpio.shadowDoorbell];
  await playServer(session, { bell, shadow: shadow.fd }, (address) => {
    using scope = new Scope();
    expect(open(scope, address).device.getRegionIoFds(2)).toEqual([]);
  });
});

test.each([
  ['in libvfio-user’s 48 bytes', gpio.plainDoorbells],
  ['in the specification’s 40 bytes', gpio.specifiedDoorbells],
])('doorbells %s share one descriptor', async (_how, lines) => {
  using bell = Fd.eventfd('bell');
  await playServer([...gpio.attach, ...gpio.ports, ...lines], { bell }, (address) => {
    using scope = new Scope();
    const [any, seven, ...others] = open(scope, address).device.getRegionIoFds(2);
    expect(any).toMatchObject({ offset: 8, size: 4 });
    expect(any).not.toHaveProperty('datamatch');
    expect(seven).toMatchObject({ offset: 0x10, size: 2, datamatch: 7n });
    expect(others).toEqual([]);
  });
});

test('SPDK’s doorbells are mapped for who trusts it, and then registers are written with an answer', async () => {
  using doorbells = Fd.memfd('doorbells');
  using file = Mapping.file(grown(doorbells, 8192), 8192, {});
  file.view.slice(0x1000, 2).set([0xaa, 0xbb]);
  const session = [...spdk.attach, ...spdk.registers, ...spdk.registerWrite];
  await playServer(session, { doorbells }, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address, { trust: 'on' });
    const { offset, flags, size, capabilities } = device.getRegionInfo(0);
    expect([flags & MAPPABLE, size]).toEqual([MAPPABLE, 0x4000]);
    expect(capabilities).toEqual([{ id: 1, areas: [{ offset: 0x1000, size: 0x1000 }] }]);
    using mapped = device.mmap(offset + 0x1000, 0x1000);
    expect([...mapped.view.slice(0, 2)]).toEqual([0xaa, 0xbb]);
    mapped.view.slice(4, 1).set([5]);
    expect(file.view.slice(0x1004, 1)[0]).toBe(5);
    expect(() => device.mmap(offset, 0x1000)).toThrowError(/EINVAL/);
    put(device, 0, 0x14, 1, 0, 0x46, 0);
  });
});

test('SPDK’s file of doorbells could be cut short: without trust they go by message', async () => {
  using doorbells = Fd.memfd('doorbells');
  grown(doorbells, 8192);
  const session = [...spdk.attach, ...spdk.registers, ...spdk.doorbellByMessage];
  await playServer(session, { doorbells }, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    expect(device.getRegionInfo(0)).toMatchObject({ flags: 0xb, size: 0x4000, capabilities: [] });
    put(device, 0, 0x1000, 3, 0, 0, 0);
    expect(bytesAt(device, 0, 0x1c, 4)).toEqual([1, 0, 0, 0]);
  });
});

test('SPDK: eventfds go 8 at a time, and vectors without one in messages of their own', async () => {
  await playServer([...spdk.attach, ...spdk.manyVectors], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    const bells = Array.from({ length: 30 }, (_, i) =>
      i === 3 || i >= 20 ? undefined : scope.own(Fd.eventfd(`vector ${i}`)),
    );
    expect(device.getIrqInfo(2).count).toBe(512);
    const data = bells.map((bell) => bell?.number ?? -1);
    device.setIrqs({ index: 2, flags: EVENTFD_TRIGGER, start: 0, count: 30, data });
    waitFor(bells[13] as Fd);
    device.setIrqs({ index: 2, flags: NONE_TRIGGER, start: 0, count: 0 });
  });
});

test('a twin socket is taken, and closed with the device', async () => {
  const [twin, other] = unixSocketPair('twin');
  using _other = other;
  using _twin = twin;
  await playServer(spdk.attachWithTwin, { twin }, (address) => {
    using scope = new Scope();
    expect(open(scope, address).description).toMatch(/4e58:0001/);
  });
});

test('a twin socket that is no socket is refused', async () => {
  using twin = Fd.eventfd('twin');
  await playServer(spdk.attachWithTwin.slice(0, 2), { twin }, (address) => {
    using scope = new Scope();
    expect(() => open(scope, address)).toThrowError(/its twin socket is no socket/);
  });
});

test('QEMU’s server: minor 1 and a tenth region are taken, and its BAR answers once it has an address', async () => {
  await playServer([...qemu.attach, ...qemu.regions, ...qemu.bar], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    expect(device.getInfo().numRegions).toBe(10);
    expect(device.getRegionInfo(0).size).toBe(0x4000);
    expect(device.getRegionInfo(6)).toMatchObject({ flags: 1, size: 0x4_0000 });
    expect(device.getRegionInfo(9).size).toBe(0);
    expect(() => bytesAt(device, 0, 0, 4)).toThrowError(/EINVAL/);
    put(device, 7, 0x10, 0, 0, 0, 0xe0);
    put(device, 7, 0x04, 6, 0);
    expect(bytesAt(device, 0, 0, 4)).toEqual([0xff, 0x07, 0x01, 0x0f]);
  });
});

test('QEMU’s server: its MSI-X table is written like any part of the BAR, which unmasks the vector', async () => {
  await playServer([...qemu.attach, ...qemu.regions.slice(0, 2), ...qemu.msix], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    using bell = Fd.eventfd('vector 0');
    device.getRegionInfo(0);
    device.setIrqs({ index: 2, flags: EVENTFD_TRIGGER, start: 0, count: 1, data: [bell.number] });
    put(device, 0, 0x200c, 0, 0, 0, 0);
    waitFor(bell);
  });
});

test('rust-vmm’s server: areas come with the second answer, though the first one says that it has them', async () => {
  using memory = createSharedMemory('device', 0x4000);
  memory.mapping.view.slice(0x2000, 1).set([0x77]);
  await playServer([...rust.attach, ...rust.sparse], { memory: memory.fd }, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    const { offset, capabilities } = device.getRegionInfo(0);
    const areas = [
      { offset: 0, size: 0x1000 },
      { offset: 0x2000, size: 0x1000 },
    ];
    expect(capabilities).toEqual([{ id: 1, areas }]);
    using mapped = device.mmap(offset + 0x2000, 0x1000);
    expect(mapped.view.slice(0, 1)[0]).toBe(0x77);
    expect(() => device.mmap(offset + 0x1000, 0x1000)).toThrowError(/EINVAL/);
  });
});

test('a server of 0.0 is not asked for doorbells, which would leave it out of step', async () => {
  await playServer([...rust.attach, ...rust.ports, ...rust.oddities], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    expect(device.getRegionIoFds(2)).toEqual([]);
    expect(device.getIrqInfo(3).count).toBe(0);
    expect(device.getIrqInfo(4).count).toBe(1);
    expect(() => device.reset()).toThrowError(/EINVAL/);
  });
});

test('rust-vmm’s server takes one descriptor at a time, and none to unmask by', async () => {
  await playServer([...rust.attach, ...rust.interrupts], {}, (address) => {
    using scope = new Scope();
    const { device } = open(scope, address);
    const bells = [0, 1, 2].map((i) => scope.own(Fd.eventfd(`vector ${i}`)));
    const set = { index: 2, start: 0, count: 3, data: bells.map(({ number }) => number) };
    device.setIrqs({ ...set, flags: EVENTFD_TRIGGER });
    waitFor(bells[1] as Fd);
    expect(() => device.setIrqs({ ...set, flags: EVENTFD_UNMASK })).toThrowError(/ENOTTY/);
  });
});

test('a server that takes 16 MiB at once is asked for no more than fits one of our messages', async () => {
  const MIB = 1 << 20;
  const [hello, , ...rest] = gpio.attach;
  const asked = (at: number) => [
    client.asks(VFIO_USER_REGION_READ, bytes(BigInt(at), 0, MIB)),
    server.answers(
      VFIO_USER_REGION_READ,
      bytes(BigInt(at), 0, MIB, new Array<number>(MIB).fill(1 + at / MIB)),
    ),
  ];
  const session = [
    hello as Line,
    server.answers(
      VFIO_USER_VERSION,
      bytes(version(2), `{"capabilities":{"max_data_xfer_size":${16 * MIB}}}`),
    ),
    ...rest,
    client.asks(VFIO_USER_DEVICE_GET_REGION_INFO, bytes(32, 0, 0, 0, 0n, 0n)),
    server.answers(VFIO_USER_DEVICE_GET_REGION_INFO, bytes(32, 3, 0, 0, BigInt(2 * MIB), 0n)),
    ...asked(0),
    ...asked(MIB),
  ];
  await playServer(session, {}, (address) => {
    using scope = new Scope();
    const data = bytesAt(open(scope, address).device, 0, 0, 2 * MIB);
    expect([data[0], data[MIB - 1], data[MIB], data.at(-1)]).toEqual([1, 1, 2, 2]);
  });
});

test('a session that goes another way is noticed', async () => {
  const session = [...gpio.attach, ...gpio.ports, ...gpio.pins];
  const leave = (address: string): void => {
    using scope = new Scope();
    open(scope, address);
  };
  await expect(playServer(session, {}, leave)).rejects.toThrowError(
    /never came: VFIO_USER_DEVICE_GET_REGION_INFO/,
  );
  await expect(playServer(gpio.attach.slice(0, -2), {}, leave)).rejects.toThrowError(/after the last line/);
  await expect(playServer([...gpio.attach.slice(0, 4), ...gpio.ports], {}, leave)).rejects.toThrowError(
    /but got/,
  );
});

/** Devices that come and go while the built-in guest uses them, on real KVM. */
import { PNG } from 'pngjs';
import { afterEach, expect, test, vi } from 'vitest';
import type { VmConfigInput } from './config.js';
import { guestPicture } from './guest-picture.js';
import type { RunReport } from './protocol.js';
import { NIC } from './testing/machines.js';
import { held, MemoryBalance, startTalking, type TalkingMachine } from './testing/talking-machine.js';
import type { VirtualMachine, VmObserver } from './virtual-machine.js';

const DISPLAY = { address: 'vgpu-small', options: { xres: '320', yres: '200' } } as const;
const SERIAL = { address: 'mtty-2', options: { port0: 'pty' } } as const;

const running: VirtualMachine[] = [];
afterEach(async () => {
  for (const vm of running.splice(0)) await vm[Symbol.asyncDispose]();
});

/** @param count devices that come and go before the guest ends */
function start(count: number, config: VmConfigInput = {}, observer: VmObserver = {}): TalkingMachine {
  const guest = startTalking(
    { ...config, cmdline: `hotplug=${count} ${config.cmdline ?? 'pings=2'}` },
    observer,
  );
  running.push(guest.vm);
  return guest;
}

const OK: Partial<RunReport> = { outcome: { kind: 'verdict', status: 0 } };

test.each([
  ['group', 1],
  ['iommufd', 2],
] as const)(
  'a NIC that comes later works, and goes while the guest uses it (%s, %i vCPU)',
  async (how, vcpus) => {
    const { vm, says, steps } = start(1, { vcpus });
    await says('hotplug: ready');
    expect(await vm.attach({ ...NIC, interface: how })).toBe(3);
    await says('hotplug: the NIC in slot 3 works, 2/2 replies');
    expect(vm.devices).toEqual([{ ...NIC, interface: how, slot: 3 }]);
    const { devices } = await vm.counters();
    expect(devices).toMatchObject([{ name: '00:03.0 virtio-net' }]);
    await vm.detach(3);
    await says('hotplug: slot 3 is empty');
    const report = await vm.finished;
    expect(report).toMatchObject({ ...OK, devices: [] });
    expect(vm.devices).toEqual([]);
    expect(steps().join('\n')).toMatch(how === 'group' ? /GET_DEVICE_FD/ : /BIND_IOMMUFD/);
  },
);

test('fifty times attached and detached, descriptors, event sources, threads, mappings and memory slots are as before', async () => {
  const memory = new MemoryBalance();
  const { vm, says, steps } = start(
    50 + 5,
    { cmdline: 'nodhcp pings=1', trace: ['memory'] },
    { trace: (_channel, text) => memory.hear(text) },
  );
  await says('hotplug: ready');
  let gone = 0;
  const round = async (index: number) => {
    const how = index % 2 === 0 ? ('group' as const) : ('iommufd' as const);
    const list = index % 10 === 0 ? [NIC, SERIAL, DISPLAY] : [NIC, SERIAL];
    const slots = await vm.attach(list.map((device) => ({ ...device, interface: how })));
    await says('works, 1/1 replies', index + 1);
    if (list.length === 3) await says('is drawn', index / 10 + 1);
    for (const slot of slots) await vm.detach(slot, { force: index % 3 === 0 });
    gone += list.length - 1; // the guest has no use for the serial card
    if (index < 49) await says('is empty', gone);
  };
  await round(0); // loads the event thread's modules
  const before = { ...held(), ...memory.now };
  for (let index = 1; index < 49; index++) await round(index);
  expect({ ...held(), ...memory.now }).toEqual(before);
  expect((await vm.counters()).devices).toEqual([]);
  await round(49);
  expect(await vm.finished).toMatchObject({ ...OK, dropped: {} });
  // The display's video memory was mapped for DMA each time.
  expect(before.regions).toBeGreaterThan(0);
  expect(steps().filter((step) => step.includes('DMA map') && step.includes('vgpu')).length).toBeGreaterThan(
    4,
  );
}, 240_000);

test('a display that comes later is photographed, and one that is gone is none', async () => {
  const { vm, says } = start(2);
  await says('hotplug: ready');
  await expect(vm.screenshot()).rejects.toMatchObject({ code: 'ENODEV' });
  const before = held();
  expect(await vm.attach({ ...DISPLAY, slot: 9 })).toBe(9);
  await says('hotplug: the display in slot 9 is drawn');
  for (const slot of [undefined, 9]) {
    const { width, height, data } = PNG.sync.read(Buffer.from(await vm.screenshot(slot)));
    expect([width, height]).toEqual([320, 200]);
    expect(Buffer.compare(data, guestPicture(320, 200).rgba)).toBe(0);
  }
  await vm.detach(9);
  for (const slot of [undefined, 9])
    await expect(vm.screenshot(slot)).rejects.toMatchObject({ code: 'ENODEV' });
  await says('slot 9 is empty');
  expect(held()).toEqual(before);
});

test('if the second of two cannot be attached, the guest sees neither, and nothing is left', async () => {
  const { vm, says, serial } = start(1);
  await says('hotplug: ready');
  await vm.detach(await vm.attach(SERIAL));
  const before = held();
  const wrong = { address: 'mtty-1', options: { port0: 'unix:/nowhere/at/all' } };
  await expect(vm.attach([DISPLAY, wrong])).rejects.toThrowError(/\/nowhere\/at\/all/);
  expect([held(), vm.devices]).toEqual([before, []]);
  await vm.attach(NIC);
  await says('the NIC in slot 3 works');
  expect(serial()).not.toMatch(/display/);
});

test('what is wrong with a device is said before anything is opened, and the guest goes on', async () => {
  const { vm, says } = start(1);
  await says('hotplug: ready');
  await expect(vm.attach({ address: 'warp-drive' })).rejects.toThrowError(
    /devices\[0\]: there is no device 'warp-drive'; there are:\n.*virtio-net/,
  );
  await expect(vm.attach([NIC, { ...NIC, options: { net: 'pigeon' } }])).rejects.toThrowError(
    /devices\[1\]: .*pigeon/,
  );
  await expect(vm.attach({ ...NIC, slot: 32 })).rejects.toThrowError(/devices\[0\]\.slot/);
  await expect(vm.attach([])).rejects.toThrowError(/devices/);
  await expect(vm.attach({ address: 'vfio-user:/nowhere' })).rejects.toThrowError(
    /attach on vfio-user:\/nowhere: EINVAL\n.*`--memory SIZE,shared=on`/,
  );
  await expect(vm.detach(3)).rejects.toMatchObject({ code: 'ENODEV' });
  await expect(vm.detach(3, { timeoutMs: -1 })).rejects.toThrowError(RangeError);
  await vm.attach(NIC);
  await says('works, 2/2 replies');
});

test('with shared memory, a device of another process is looked for', async () => {
  const { vm, says } = start(1, { sharedMemory: true });
  await says('hotplug: ready');
  await expect(vm.attach({ address: 'vfio-user:/nowhere' })).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a NIC that is pulled out while the guest sends over it does not stop the guest', async () => {
  const { vm, says } = start(2, { cmdline: 'pings=1000 mtu=576' });
  await says('hotplug: ready');
  await vm.attach(NIC);
  await vi.waitUntil(async () => ((await vm.counters()).devices[0]?.counters.txPackets ?? 0) > 20, 10_000);
  await vm.detach(3, { force: true });
  expect(vm.devices).toEqual([]);
  await expect(vm.counters()).resolves.toMatchObject({ devices: [] });
});

test('a restarted guest has the devices of the moment of the reset, in their slots', async () => {
  const { vm, says, serial } = start(1, { devices: [SERIAL, NIC], cmdline: 'reset pings=2' });
  await says('the NIC in slot 4 works');
  expect(await vm.attach([{ ...DISPLAY, slot: 20 }, SERIAL])).toEqual([20, 5]);
  await says('the display in slot 20 is drawn');
  await vm.detach(3);
  await vm.detach(4);
  await says('hotplug: ready', 2);
  await says('the display in slot 20 is drawn', 2);
  expect(vm.devices.map(({ address, slot }) => [slot, address])).toEqual([
    [20, 'vgpu-small'],
    [5, 'mtty-2'],
  ]);
  const { devices } = await vm.counters();
  expect(devices.map(({ name }) => name)).toEqual(['00:14.0 vgpu-small', '00:05.0 mtty-2']);
  expect(vm.config.devices).toHaveLength(2);
  expect(serial().split('slot 4 works')).toHaveLength(2);
});

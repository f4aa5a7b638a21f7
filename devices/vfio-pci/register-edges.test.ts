import { expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { type DeviceFile, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX } from '../../vfio/uapi.js';
import { PCI_CAP_ID_PM, PCI_COMMAND, PCI_STATUS, PCI_STATUS_CAP_LIST } from '../pci/pci-regs.js';
import { fakeEnvironment } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { DeviceConfig } from './device-config.js';
import { Region } from './region.js';
import { quiesce } from './reset.js';
import { createScriptedNic, nicOffsets } from './scripted-nic.js';

const { msi, msix } = nicOffsets;

function openCard(
  scope: Scope,
  words: Readonly<Record<number, number>>,
  options: object = {},
  size: 256 | 4096 = 4096,
) {
  const config = createScriptedNic().config.slice(0, size);
  const view = new DataView(config.buffer);
  for (const [offset, word] of Object.entries(words)) view.setUint16(Number(offset), word, true);
  const nic = scope.own(createScriptedNic({ ...options, init: { config } }));
  const environment = fakeEnvironment();
  return {
    device: scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 11 })),
    environment,
    nic,
  };
}

test.each([
  { what: '32 bits', flags: 0, end: 0xa },
  { what: '64 bits', flags: 0x80, end: 0xe },
  { what: '32 bits and masks', flags: 0x100, end: 0x14 },
  { what: '64 bits and masks', flags: 0x180, end: 0x18 },
])(
  'MSI of $what hides the device’s own registers up to its last byte, and none behind it',
  ({ flags, end }) => {
    using scope = new Scope();
    const words: Record<number, number> = { [msi + 2]: flags | 4 };
    // The device has something in each register, as a host's driver leaves it. Behind 0x18, the next capability follows.
    for (let at = msi + 4; at < msi + 0x18; at += 2) words[at] = 0xffff;
    const { device } = openCard(scope, words);
    const bytes = Array.from({ length: 0x14 }, (_, i) => device.configRead(msi + 4 + i, 1));
    const registers = end - 4;
    expect(bytes).toEqual([...new Array(registers).fill(0), ...new Array(0x14 - registers).fill(0xff)]);
  },
);

test.each([
  { bits: 0x400, is: 'INTx disable' },
  { bits: 0x4, is: 'bus mastering' },
  { bits: 0x2, is: 'memory' },
  { bits: 0x1, is: 'ports' },
  { bits: 0x407, is: 'all four' },
])('what a guest sets of the command is the device’s after a reset of both: $is', ({ bits }) => {
  using scope = new Scope();
  const { device, nic } = openCard(scope, { [PCI_COMMAND]: 0x140 });
  device.configWrite(PCI_COMMAND, 2, bits | 0x140);
  const own = () => (nic.config[PCI_COMMAND] as number) | ((nic.config[PCI_COMMAND + 1] as number) << 8);
  expect([device.configRead(PCI_COMMAND, 2), own()]).toEqual([bits | 0x140, bits | 0x140]);
  device.reset();
  expect(device.configRead(PCI_COMMAND, 2) & 0x407).toBe(0);
  expect(own() & 0x407).toBe(0);
});

test('an access across the end of configuration space reads all-ones, and its write goes nowhere', () => {
  using scope = new Scope();
  const { device, nic } = openCard(scope, {}, {}, 256);
  nic.config.fill(0x5a, 0xf0);
  const before = nic.config.slice();
  expect(device.configRead(0xfe, 4)).toBe(0xffff_ffff);
  device.configWrite(0xfe, 4, 0);
  expect(nic.config).toEqual(before);
  expect(device.configRead(0xfc, 4)).toBe(0x5a5a_5a5a);
});

test.each([
  { at: 0x1ffc, size: 4, isRegistered: true },
  { at: 0x1ffd, size: 4, isRegistered: false },
  { at: 0x2000, size: 4, isRegistered: false },
])('a doorbell at $at before memory that is mapped from 0x2000 is registered: $isRegistered', (row) => {
  using scope = new Scope();
  const bell = scope.own(Fd.eventfd());
  const ioFds = [{ offset: row.at, size: row.size, fd: bell.number }];
  // The MSI-X table and PBA are in the first two pages of BAR4, which are trapped.
  const words = {
    ...{ [nicOffsets.msix + 4]: 4, [nicOffsets.msix + 6]: 0 },
    ...{ [nicOffsets.msix + 8]: 0x1004, [nicOffsets.msix + 10]: 0 },
  };
  const { device, environment } = openCard(scope, words, { ioFds });
  device.configWrite(0x20, 4, 0xe010_0000);
  device.configWrite(0x24, 4, 0);
  device.configWrite(PCI_COMMAND, 2, 2);
  const at = environment.doorbells.bells.map(({ address }) => Number(address) - 0xe010_0000);
  expect(at).toEqual(row.isRegistered ? [row.at] : []);
});

/** A device's configuration space with power management at 0x40, if it has that; its accesses are recorded. */
function space(power: number | undefined, command: number) {
  const bytes = new Uint8Array(256);
  const view = new DataView(bytes.buffer);
  view.setUint16(PCI_COMMAND, command, true);
  if (power !== undefined) {
    view.setUint16(PCI_STATUS, PCI_STATUS_CAP_LIST, true);
    bytes[0x34] = 0x40;
    bytes[0x40] = PCI_CAP_ID_PM;
    view.setUint16(0x44, power, true);
  }
  const writes: string[] = [];
  const reads: string[] = [];
  const file = {
    read(offset: number, data: Uint8Array) {
      reads.push(`${offset.toString(16)}+${data.length}`);
      data.set(bytes.subarray(offset, offset + data.length));
      return data.length;
    },
    write(offset: number, data: Uint8Array) {
      writes.push(`${offset.toString(16)} ${[...data].map((byte) => byte.toString(16)).join(' ')}`);
      return data.length;
    },
  };
  const info = { index: 7, flags: 3, size: 256, offset: 0, capabilities: [] };
  return { config: new DeviceConfig(new Region('nic', file as unknown as DeviceFile, info)), writes, reads };
}

test.each([
  { what: 'in D3hot with PME enabled', power: 0x0103, command: 0x0547, is: ['4 40 5', '44 0 1', '4 40 5'] },
  { what: 'in D1', power: 0x0001, command: 0x0007, is: ['4 0 0', '44 0 0', '4 0 0'] },
  { what: 'in D2', power: 0x8002, command: 0x0401, is: ['4 0 4', '44 0 80', '4 0 4'] },
  { what: 'in D0', power: 0x0108, command: 0x0006, is: ['4 0 0'] },
  { what: 'without power management', power: undefined, command: 0x0406, is: ['4 0 4'] },
])(
  'before its reset, a device $what stops decoding and DMA before and after it is moved to D0, and keeps all else',
  (row) => {
    const { config, writes, reads } = space(row.power, row.command);
    quiesce(config);
    expect(writes).toEqual(row.is);
    // Registers next to these may have side effects.
    expect(new Set(reads.filter((read) => /^[45]\+/.test(read)))).toEqual(new Set(['4+2']));
    expect(reads.filter((read) => read.startsWith('44'))).toEqual(row.power === undefined ? [] : ['44+2']);
  },
);

test.each([
  { from: 'intx', at: 0, control: 0 },
  { from: 'msi', at: msi + 2, control: 1 },
  { from: 'msix', at: msix + 2, control: 0x8000 },
])('after a reset, the pin of a device that used $from is wired, and after the detach nothing is', (row) => {
  using scope = new Scope();
  const { device, nic } = openCard(scope, {});
  if (row.at !== 0) device.configWrite(row.at, 2, row.control);
  expect(device.interruptMode).toBe(row.from);
  device.reset();
  expect([device.interruptMode, nic.wired()[VFIO_PCI_INTX_IRQ_INDEX]]).toEqual(['intx', [0]]);
  device[Symbol.dispose]();
  expect([device.interruptMode, nic.wired()]).toEqual(['none', {}]);
});

test.each([
  { what: '32 bits', flags: 0, data: 8, address: 0xfee0_1230n },
  { what: '64 bits', flags: 0x80, data: 12, address: 0x12_fee0_1230n },
])('a message of MSI of $what has that address, whatever its data', ({ flags, data, address }) => {
  using scope = new Scope();
  const { device, environment, nic } = openCard(scope, { [msi + 2]: flags });
  device.configWrite(msi + 4, 4, 0xfee0_1230);
  if (flags !== 0) device.configWrite(msi + 8, 4, 0x12);
  device.configWrite(msi + data, 2, 0x4321);
  device.configWrite(msi + 2, 2, 1);
  nic.fire(VFIO_PCI_MSI_IRQ_INDEX, 0);
  expect(environment.interrupts.take()).toMatchObject([{ address, data: 0x4321 }]);
});

test('a vector of MSI that was delivered is held once it is masked, and the others are not', () => {
  using scope = new Scope();
  const { device, environment, nic } = openCard(scope, { [msi + 2]: 0x184 });
  const fired = (vector: number): number[] => {
    nic.fire(VFIO_PCI_MSI_IRQ_INDEX, vector);
    return environment.interrupts.take().map(({ data }) => data);
  };
  device.configWrite(msi + 4, 4, 0xfee0_0000);
  device.configWrite(msi + 12, 2, 0x40);
  device.configWrite(msi + 2, 2, 0x21);
  expect([fired(0), fired(1)]).toEqual([[0x40], [0x41]]);
  device.configWrite(msi + 16, 4, 0b10);
  expect([fired(0), fired(1)]).toEqual([[0x40], []]);
  expect(device.configRead(msi + 20, 4)).toBe(0b10);
  device.configWrite(msi + 16, 4, 0);
  expect(environment.interrupts.take()).toMatchObject([{ data: 0x41, count: 1n }]);
  expect(fired(1)).toEqual([0x41]);
});

test.each([
  { what: 'the command', at: PCI_COMMAND, value: 0x0407 },
  { what: 'the control of MSI', at: msi + 2, value: 0x0021 },
  { what: 'the control of MSI-X', at: msix + 2, value: 0xc000 },
])('what a guest writes to $what, the device gets', ({ at, value }) => {
  using scope = new Scope();
  const { device, nic } = openCard(scope, {});
  device.configWrite(at, 2, value);
  const own = (nic.config[at] as number) | ((nic.config[at + 1] as number) << 8);
  expect(own & value).toBe(value);
});

test('a device whose pin is not routed has no pin and no line', () => {
  using scope = new Scope();
  const nic = scope.own(createScriptedNic());
  const device = scope.own(VfioPciDevice.open('nic', nic, fakeEnvironment()));
  expect([device.configRead(0x3c, 1), device.configRead(0x3d, 1)]).toEqual([0, 0]);
});

test('nothing of a device is in the guest any more when its detach accesses it', () => {
  using scope = new Scope();
  const { device, environment, nic } = openCard(scope, {});
  device.configWrite(0x10, 4, 0xe000_0000);
  device.configWrite(0x20, 4, 0xe010_0000);
  device.configWrite(PCI_COMMAND, 2, 6);
  expect(environment.mmio.ranges).toHaveLength(2);
  const ranges: number[] = [];
  const { write, setIrqs } = nic;
  nic.write = (...args) => {
    ranges.push(environment.mmio.ranges.length);
    return write.apply(nic, args);
  };
  nic.setIrqs = (...args) => {
    ranges.push(environment.mmio.ranges.length);
    return setIrqs.apply(nic, args);
  };
  device[Symbol.dispose]();
  expect(ranges.length).toBeGreaterThan(1);
  expect(new Set(ranges)).toEqual(new Set([0]));
});

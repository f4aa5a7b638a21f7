import { expect, test } from 'vitest';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { ScriptedDevice, type ScriptedRegion } from '../testing/scripted-device.js';
import { findBarRegions } from './bars.js';
import { IrqPort } from './irq-port.js';

const ROM = VFIO_PCI_ROM_REGION_INDEX;

function regionsOf(
  regions: Readonly<Record<number, ScriptedRegion>>,
  registers: Readonly<Record<number, number>> = {},
  numRegions = 9,
) {
  const device = new ScriptedDevice({ config: new Uint8Array(256), regions });
  return findBarRegions('card', device, (offset) => registers[offset] ?? 0, numRegions);
}

test('a BAR has the type of its register and the size of its region; the upper half of one is none', () => {
  const all = Object.fromEntries([0, 1, 2, 3, 4, 5].map((index) => [index, { size: 0x1000 << index }]));
  const { bars, rom } = regionsOf(all, { 16: 0x4, 24: 0x8, 28: 0x1, 32: 0xc });
  expect(bars.map(({ shape }) => shape)).toEqual([
    { index: 0, kind: 'memory64', isPrefetchable: false, size: 0x1000n },
    { index: 2, kind: 'memory32', isPrefetchable: true, size: 0x4000n },
    { index: 3, kind: 'io', isPrefetchable: false, size: 0x8000n },
    { index: 4, kind: 'memory64', isPrefetchable: true, size: 0x1_0000n },
  ]);
  expect(bars.map(({ region }) => region.info.index)).toEqual([0, 2, 3, 4]);
  expect(rom).toBe(undefined);
  expect(regionsOf({ 5: { size: 16 } }).bars.map(({ shape }) => shape.index)).toEqual([5]);
});

test('a ROM is there if its region exists, has a size and can be read; it is never written or mapped', () => {
  const READ = VFIO_REGION_INFO_FLAG_READ;
  const made = regionsOf({ [ROM]: { size: 0x1801, flags: READ | VFIO_REGION_INFO_FLAG_WRITE | 4 } });
  expect([made.rom?.size, made.rom?.region.size, made.rom?.region.info.flags]).toEqual([
    0x2000n,
    0x1801,
    READ,
  ]);
  expect(regionsOf({ [ROM]: { size: 0x1000, flags: VFIO_REGION_INFO_FLAG_WRITE } }).rom).toBe(undefined);
  expect(regionsOf({ [ROM]: { size: 0, flags: READ } }).rom).toBe(undefined);
  expect(regionsOf({ [ROM]: { size: 0x1000 } }, {}, ROM).rom).toBe(undefined);
  expect(regionsOf({ [ROM]: { size: 0x1000 } }, {}, ROM + 1).rom?.size).toBe(0x1000n);
});

test('an interrupt index is there if the device has it and it has vectors', () => {
  const device = new ScriptedDevice({
    config: new Uint8Array(256),
    irqs: { 1: { count: 2 }, 2: { count: 0 } },
  });
  expect(IrqPort.open(device, 2, 1)?.info).toMatchObject({ index: 1, count: 2 });
  expect(IrqPort.open(device, 1, 1)).toBe(undefined);
  expect(IrqPort.open(device, 5, 2)).toBe(undefined);
  // Linux reports EINVAL for indices that this device lacks; any other error is one.
  expect(IrqPort.open(device, 100, 50)).toBe(undefined);
  const failing = Object.create(device, {
    getIrqInfo: {
      value: () => {
        throw new Error('EIO');
      },
    },
  });
  expect(() => IrqPort.open(failing, 5, 1)).toThrow('EIO');
});

test('each form of SET_IRQS has its flags and range', () => {
  const device = new ScriptedDevice({ config: new Uint8Array(256), irqs: { 1: { count: 4 } } });
  const port = IrqPort.open(device, 5, 1) as IrqPort;
  device.setIrqs = (set) => {
    device.calls.push({ call: 'setIrqs', set });
  };
  port.trigger(1, [7, -1]);
  port.unmaskBy(8);
  port.unmask();
  port.disable();
  const eventfd = VFIO_IRQ_SET_DATA_EVENTFD;
  const none = VFIO_IRQ_SET_DATA_NONE;
  expect(device.calls.map((call) => (call.call === 'setIrqs' ? call.set : call))).toEqual([
    { index: 1, flags: eventfd | VFIO_IRQ_SET_ACTION_TRIGGER, start: 1, count: 2, data: [7, -1] },
    { index: 1, flags: eventfd | VFIO_IRQ_SET_ACTION_UNMASK, start: 0, count: 1, data: [8] },
    { index: 1, flags: none | VFIO_IRQ_SET_ACTION_UNMASK, start: 0, count: 1 },
    { index: 1, flags: none | VFIO_IRQ_SET_ACTION_TRIGGER, start: 0, count: 0 },
  ]);
});

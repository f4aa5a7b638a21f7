import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { VFIO_PCI_INTX_IRQ_INDEX } from '../../vfio/uapi.js';
import { PCI_COMMAND, PCI_HEADER_TYPE } from '../pci/pci-regs.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicOffsets } from './scripted-nic.js';
import { SlotMembers } from './slot-members.js';

const { pm, msix } = nicOffsets;

function openNic(scope: Scope, words: Readonly<Record<number, number>> = {}, init: object = {}) {
  const config = createScriptedNic().config.slice();
  const view = new DataView(config.buffer);
  for (const [offset, word] of Object.entries(words)) view.setUint16(Number(offset), word, true);
  const nic = scope.own(createScriptedNic({ init: { config, ...init } }));
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 11 }));
  return { nic, environment, device };
}

const resets = (nic: ScriptedDevice): number => nic.calls.filter(({ call }) => call === 'reset').length;

test.each([
  { offset: 0x0f, isUse: true },
  { offset: 0x10, isUse: false },
  { offset: 0x27, isUse: false },
  { offset: 0x28, isUse: true },
  { offset: 0x2f, isUse: true },
  { offset: 0x30, isUse: false },
  { offset: 0x33, isUse: false },
  { offset: 0x34, isUse: true },
  { offset: pm + 4, isUse: true },
])('a write at $offset is a use, after which the device is reset again: $isUse', ({ offset, isUse }) => {
  using scope = new Scope();
  const { nic, device } = openNic(scope);
  expect(resets(nic)).toBe(1);
  device.configWrite(offset, 1, 0);
  device.reset();
  expect(resets(nic)).toBe(isUse ? 2 : 1);
  device.reset();
  expect(resets(nic)).toBe(isUse ? 2 : 1);
});

test.each([
  { command: 0, isIdle: true },
  { command: 1, isIdle: false },
  { command: 2, isIdle: false },
  { command: 4, isIdle: false },
  { command: 7, isIdle: false },
  { command: 0x400, isIdle: true },
])('with command $command, the guest does not use the device: $isIdle', ({ command, isIdle }) => {
  using scope = new Scope();
  const { device } = openNic(scope);
  device.configWrite(PCI_COMMAND, 2, command);
  expect(device.isIdle).toBe(isIdle);
});

test.each([
  { type: 0x00, isUsable: true },
  { type: 0x80, isUsable: true },
  { type: 0x01, isUsable: false },
  { type: 0x81, isUsable: false },
  { type: 0x02, isUsable: false },
])('a device of header type $type can be assigned: $isUsable', ({ type, isUsable }) => {
  using scope = new Scope();
  const open = (): string => {
    try {
      return openNic(scope, { [PCI_HEADER_TYPE]: type }).device.name;
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect(open()).toBe(
    isUsable
      ? 'nic'
      : 'VFIO_DEVICE_GET_INFO on nic: ENODEV\n  hint: a bridge: assign the functions behind it',
  );
});

test.each([
  { command: 2, shown: 'mmio' },
  { command: 1, shown: 'pio' },
  { command: 3, shown: 'mmio pio' },
  { command: 4, shown: '' },
])('with command $command, the guest sees $shown, and nothing of a BAR is noted', ({ command, shown }) => {
  using scope = new Scope();
  const { device, environment } = openNic(scope);
  device.configWrite(0x10, 4, 0xe000_0000);
  device.configWrite(0x18, 4, 0xc000);
  device.configWrite(0x20, 4, 0xe010_0000);
  using notes = recordTrace(trace.vfio);
  using misuse = recordTrace(trace.guestMisuse);
  device.configWrite(PCI_COMMAND, 2, command);
  const kinds = (['mmio', 'pio'] as const).filter((kind) => environment[kind].ranges.length > 0);
  expect(kinds.join(' ')).toBe(shown);
  device.configWrite(PCI_COMMAND, 2, 0);
  expect([...environment.mmio.ranges, ...environment.pio.ranges, ...environment.memory.slots]).toEqual([]);
  expect([...notes.events, ...misuse.events]).toEqual([]);
});

test.each([
  { what: 'that stays in D0', writable: 0, isShown: true },
  { what: 'that goes to D3hot', writable: 3, isShown: false },
])('a device $what when the guest writes D3hot is decoded afterwards: $isShown', ({ writable, isShown }) => {
  using scope = new Scope();
  const configWritable = new Uint8Array(4096).fill(0xff);
  configWritable[pm + 4] = writable;
  const { device, environment } = openNic(scope, { [pm + 4]: 0 }, { configWritable });
  device.configWrite(0x10, 4, 0xe000_0000);
  device.configWrite(PCI_COMMAND, 2, 2);
  device.configWrite(pm + 4, 2, 3);
  expect(environment.mmio.ranges.length > 0).toBe(isShown);
});

test('ahead of a reset with its slot, a device is silent and does no DMA; after it, all is as its registers say', () => {
  using scope = new Scope();
  const { device, nic } = openNic(scope);
  device.configWrite(PCI_COMMAND, 2, 4);
  device.configWrite(PCI_COMMAND, 2, 0);
  device.configWrite(msix + 2, 2, 0x8000);
  device.beforeReset();
  expect(nic.wired()[VFIO_PCI_INTX_IRQ_INDEX]).toBeUndefined();
  expect([device.interruptMode, nic.config[PCI_COMMAND]]).toEqual(['none', 0]);
  device.afterReset(true);
  expect(device.interruptMode).toBe('msix');
  device.stop();
  device.resume();
  expect(resets(nic)).toBe(1);
  device.configWrite(PCI_COMMAND, 2, 0);
  device.afterReset(false);
  device.reset();
  expect(resets(nic)).toBe(2);
});

test('a device is on its slot from when it is open until it is detached', () => {
  using scope = new Scope();
  const members = new SlotMembers();
  const nic = scope.own(createScriptedNic());
  const reset = { address: 'at nic', affected: () => [{ address: 'at nic' }], reset: () => {} };
  const device = VfioPciDevice.open('nic', nic, fakeEnvironment(), {}, { reset, members });
  const other = { name: 'other', isIdle: true, beforeReset: () => {}, afterReset: () => {} };
  device.configWrite(PCI_COMMAND, 2, 2);
  expect(members.reset(other, reset)).toEqual({ refused: 'nic is on its slot, and the guest uses it' });
  device[Symbol.dispose]();
  expect(members.reset(other, reset)).toEqual({ done: 'at nic' });
});

import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { trace } from '../../sys/trace.js';
import { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_COMMAND,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { recordTrace, ScriptedDevice } from '../testing/fake-ports.js';
import { DeviceConfig } from './device-config.js';
import { Region } from './region.js';
import { resetDevice } from './reset.js';

/** Capabilities: id, and its bytes behind the header. */
type Capabilities = readonly (readonly [id: number, ...bytes: number[]])[];

function device(capabilities: Capabilities, { hasNoReset = false } = {}) {
  const space = new ConfigSpace(256);
  space.set(PCI_VENDOR_ID, 2, 0x8086);
  space.set(PCI_COMMAND, 2, 7);
  for (const [id, ...bytes] of capabilities) space.addCapability(id, Uint8Array.from(bytes));
  const file = new ScriptedDevice({ config: space.values, hasNoReset });
  const config = new DeviceConfig(Region.open('nic', file, 7));
  const resets = () => file.calls.filter(({ call }) => call === 'reset').length;
  return { file, config, resets };
}

const PM_RESETS = [PCI_CAP_ID_PM, 3, 0, 0, 0, 0, 0] as const;
const PM_KEEPS = [PCI_CAP_ID_PM, 3, 0, 8, 0, 0, 0] as const;
const express = (...devcap: number[]) => [PCI_CAP_ID_EXP, 2, 0, ...devcap, 0, 0, 0, 0] as const;
const EXP_FLR = express(0, 0, 0, 0x10);
const EXP_NO_FLR = express(0xff, 0xff, 0xff, 0xef);
const af = (capabilities: number) => [PCI_CAP_ID_AF, 6, capabilities, 0, 0] as const;
// Whose bytes look like a function level reset and a soft reset, if another capability's registers are taken for them.
const OTHER = [PCI_CAP_ID_VNDR, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff] as const;
const ZEROS = [PCI_CAP_ID_MSI, 0, 0, 0, 0, 0, 0, 0, 0] as const;

test.each([
  { what: 'a function level reset of PCI Express', capabilities: [PM_RESETS, EXP_FLR], is: 'alone' },
  { what: 'PCI Express without one', capabilities: [PM_RESETS, EXP_NO_FLR], is: 'slot' },
  { what: 'a function level reset of Advanced Features', capabilities: [PM_RESETS, af(3)], is: 'alone' },
  { what: 'Advanced Features with no pending bit', capabilities: [PM_RESETS, af(2)], is: 'slot' },
  { what: 'Advanced Features with no reset', capabilities: [PM_RESETS, af(1)], is: 'slot' },
  { what: 'D3hot that keeps its state', capabilities: [PM_KEEPS], is: 'alone' },
  { what: 'D3hot that resets it', capabilities: [PM_RESETS], is: 'slot' },
  { what: 'D3hot that resets it, behind another one', capabilities: [OTHER, PM_RESETS, OTHER], is: 'slot' },
  { what: 'another one only', capabilities: [ZEROS], is: 'alone' },
  { what: 'no capability', capabilities: [], is: 'alone' },
] as const)('a device with $what is reset by the right call', ({ capabilities, is }) => {
  const { file, config, resets } = device(capabilities);
  let slots = 0;
  const resetSlot = () => {
    slots += 1;
    return { done: 'at a' };
  };
  expect(resetDevice({ name: 'nic', file, config, resetSlot })).toBe(true);
  expect([resets(), slots]).toEqual(is === 'alone' ? [1, 0] : [0, 1]);
});

test.each([
  { what: 'D3hot', capabilities: [PM_RESETS], resets: 1, text: 'went through D3hot only' },
  { what: 'no reset', capabilities: [PM_RESETS], hasNoReset: true, resets: 0, text: 'not reset: it keeps' },
])('without a reset of its slot, a device with $what is not fully reset', (row) => {
  using notes = recordTrace(trace.vfio);
  const { file, config, resets } = device(row.capabilities, row);
  expect(resetDevice({ name: 'nic', file, config })).toBe(false);
  expect(resets()).toBe(row.resets);
  expect(notes.events.map(({ text }) => text)).toEqual([expect.stringContaining(row.text)]);
  expect(notes.events[0]?.text).toMatch(/No reset of its slot: its provider resets no slots$/);
});

/** What a call throws, by its code, or its result. */
function outcome(call: () => unknown): unknown {
  try {
    return call();
  } catch (error) {
    return (error as SysError | undefined)?.code;
  }
}

test.each([
  // The kernel finds only when asked that it cannot reset the device: the next way is tried.
  { code: 'ENOTTY', isClosing: false, is: false },
  { code: 'EINVAL', isClosing: false, is: false },
  { code: 'EIO', isClosing: false, is: 'EIO' },
  { code: 'EIO', isClosing: true, is: 'EIO' },
  { code: 'EAGAIN', isClosing: false, is: 'EAGAIN' },
  { code: 'EAGAIN', isClosing: true, is: false },
] as const)(
  'a reset that fails with $code, in a close: $isClosing, ends so: $is',
  ({ code, isClosing, is }) => {
    const { file, config } = device([EXP_FLR]);
    file.failures.set('reset', code);
    expect(outcome(() => resetDevice({ name: 'nic', file, config, isClosing }))).toBe(is);
  },
);

test('a device is quiesced before its slot or itself is reset, and moved to D0 wherever its power management is', () => {
  const { file, config } = device([OTHER, PM_RESETS]);
  const power = 0x48 + 4;
  expect(config.read(0x48, 1)).toBe(PCI_CAP_ID_PM);
  config.write(power, 2, 0x0103);
  const resetSlot = () => ({ done: `${config.read(PCI_COMMAND, 2)} ${config.read(power, 2).toString(16)}` });
  using notes = recordTrace(trace.vfio);
  resetDevice({ name: 'nic', file, config, resetSlot });
  expect(notes.events.at(-1)?.text).toBe('the device is reset with its slot: 0 100');
});

test('a device that reads all-ones after its reset is an error that says what happened', () => {
  const { file, config } = device([EXP_FLR]);
  file.reset = () => void file.config.fill(0xff);
  let error: unknown;
  try {
    resetDevice({ name: 'nic', file, config });
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(SysError);
  expect(error).toMatchObject({ call: 'read', target: 'configuration space of nic', errno: errno.EIO });
});

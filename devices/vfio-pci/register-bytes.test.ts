import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX } from '../../vfio/uapi.js';
import { PCI_COMMAND } from '../pci/pci-regs.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicMsix, nicOffsets } from './scripted-nic.js';

const { msi, msix, pm } = nicOffsets;
const MSI = VFIO_PCI_MSI_IRQ_INDEX;
const BAR0 = 0x10;
const BAR4 = 0x20;
const ROM = 0x30;

function openNic(scope: Scope, init: object = {}) {
  const nic = scope.own(createScriptedNic({ init }));
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 11 }));
  return { nic, environment, device };
}

/** Writes the bytes of a value one by one, the one at `last` at the end. */
function writeBytes(device: VfioPciDevice, offset: number, bytes: number, value: number, last: number): void {
  const order = [...new Array(bytes).keys()].filter((at) => at !== last);
  for (const at of [...order, last]) device.configWrite(offset + at, 1, (value >>> (8 * at)) & 0xff);
}

describe('a register takes effect at once, whichever of its bytes is written last', () => {
  test.each([0, 1, 2, 3])('the addresses of BARs and ROM: byte %i', (last) => {
    using scope = new Scope();
    const { device, environment } = openNic(scope);
    const bases = () => environment.mmio.ranges.map(({ base }) => base).sort();
    device.configWrite(PCI_COMMAND, 2, 2);
    // Bytes of 0 are the registers' own at power-on, so each address has something in all bytes that the BAR decodes.
    writeBytes(device, BAR0, 4, 0xe123_8000, last);
    expect(bases()).toEqual([0xe123_8000n]);
    writeBytes(device, ROM, 4, 0xe245_0001, last);
    expect(bases()).toEqual([0xe123_8000n, 0xe245_0000n]);
    device.configWrite(BAR4, 4, 0x0123_4000);
    writeBytes(device, BAR4 + 4, 4, 0x83, last);
    expect(bases()).toContain(0x83_0123_4000n);
    expect(environment.mmio.ranges).toHaveLength(3);
  });

  test('the last byte of BAR5', () => {
    using scope = new Scope();
    const config = createScriptedNic().config.slice();
    config.fill(0, BAR4, BAR4 + 8);
    const regions = { 5: { size: 0x1000 } };
    const { device, environment } = openNic(scope, { config, regions });
    device.configWrite(PCI_COMMAND, 2, 2);
    writeBytes(device, 0x24, 4, 0xe123_4000, 3);
    expect(environment.mmio.ranges.map(({ base }) => base)).toEqual([0xe123_4000n]);
  });

  test.each([0, 1])('the controls of MSI and MSI-X: byte %i', (last) => {
    using scope = new Scope();
    const { device } = openNic(scope);
    writeBytes(device, msi + 2, 2, 0x0001, last);
    expect(device.interruptMode).toBe('msi');
    writeBytes(device, msi + 2, 2, 0, last);
    expect(device.interruptMode).toBe('intx');
    writeBytes(device, msix + 2, 2, 0x8000, last);
    expect(device.interruptMode).toBe('msix');
    writeBytes(device, msix + 2, 2, 0, last);
    expect(device.interruptMode).toBe('intx');
  });

  test('an access that begins in the register before', () => {
    using scope = new Scope();
    const { device, environment } = openNic(scope);
    device.configWrite(msi, 4, 0x0001_0000);
    expect(device.interruptMode).toBe('msi');
    device.configWrite(msi, 4, 0);
    device.configWrite(msix, 4, 0x8000_0000);
    expect(device.interruptMode).toBe('msix');
    device.configWrite(msix, 4, 0);
    expect(device.interruptMode).toBe('intx');
    device.configWrite(BAR0, 4, 0xe000_0000);
    device.configWrite(PCI_COMMAND, 1, 2);
    expect(environment.mmio.ranges).toHaveLength(1);
    device.configWrite(pm + 2, 4, 0x0003_0000);
    expect(environment.mmio.ranges).toHaveLength(0);
  });
});

test.each([0, 1, 2, 3])('a message of MSI is sent as it is after its last byte: byte %i', (last) => {
  using scope = new Scope();
  const { device, environment, nic } = openNic(scope);
  device.configWrite(msi + 2, 2, 1);
  const sent = () => {
    nic.fire(MSI, 0);
    return environment.interrupts.take().map(({ address, data }) => [address, data]);
  };
  writeBytes(device, msi + 4, 4, 0xfee0_1230, last);
  expect(sent()).toEqual([[0xfee0_1230n, 0]]);
  writeBytes(device, msi + 8, 4, 0x8765_4321, last);
  expect(sent()).toEqual([[0x8765_4321_fee0_1230n, 0]]);
  if (last < 2) writeBytes(device, msi + 12, 2, 0xabcd, last);
  else device.configWrite(msi + 12, 2, 0xabcd);
  expect(sent()).toEqual([[0x8765_4321_fee0_1230n, 0xabcd]]);
});

test('each of 32 vectors has a mask, a pending bit, and a message of its own', () => {
  using scope = new Scope();
  const config = createScriptedNic().config.slice();
  config[msi + 2] = 0x8a; // 32 messages, 64 bits
  const { device, environment, nic } = openNic(scope, { config, irqs: { [MSI]: { count: 32 } } });
  device.configWrite(msi + 4, 4, 0xfee0_0000);
  device.configWrite(msi + 12, 2, 0x12ff);
  device.configWrite(msi + 16, 4, 0xffff_ffff);
  device.configWrite(msi + 2, 2, 0x51);
  for (let vector = 0; vector < 32; vector++) {
    nic.fire(MSI, vector);
    expect(device.configRead(msi + 20, 4)).toBe(2 ** vector);
    expect(device.configRead(msi + 20 + (vector >> 3), 1)).toBe(1 << (vector & 7));
    expect(environment.interrupts.take()).toEqual([]);
    device.configWrite(msi + 16 + (vector >> 3), 1, 0xff & ~(1 << (vector & 7)));
    expect(environment.interrupts.take()).toMatchObject([{ data: 0x12e0 + vector, count: 1n }]);
    device.configWrite(msi + 16, 4, 0xffff_ffff);
  }
});

test.each([
  { what: 'MSI alone', writes: [[msi + 2, 1]], mode: 'msi', isMisuse: false },
  { what: 'MSI-X alone', writes: [[msix + 2, 0x8000]], mode: 'msix', isMisuse: false },
  {
    what: 'MSI, then MSI-X',
    writes: [
      [msi + 2, 1],
      [msix + 2, 0x8000],
    ],
    mode: 'msix',
    isMisuse: true,
  },
  {
    what: 'MSI-X, then MSI',
    writes: [
      [msix + 2, 0x8000],
      [msi + 2, 1],
    ],
    mode: 'msix',
    isMisuse: true,
  },
] as const)('$what: the mode is $mode; is it misuse? $isMisuse', ({ writes, mode, isMisuse }) => {
  using scope = new Scope();
  using misuse = recordTrace(trace.guestMisuse);
  const { device } = openNic(scope);
  for (const [offset, value] of writes) device.configWrite(offset, 2, value);
  expect(device.interruptMode).toBe(mode);
  expect(misuse.events.map(({ text }) => text)).toEqual(isMisuse ? ['MSI and MSI-X are both enabled'] : []);
});

test('the message of an MSI-X vector has 64 bits of address and 32 of data', () => {
  using scope = new Scope();
  const { device, environment, nic } = openNic(scope);
  device.configWrite(BAR4, 4, 0xe010_0000);
  device.configWrite(PCI_COMMAND, 2, 2);
  const entry = 0xe010_0000n + BigInt(nicMsix.table + 16 * 4);
  for (const [i, word] of [0xfee0_1230, 0x8765_4321, 0xfedc_ba98, 0].entries())
    environment.mmio.write32(entry + BigInt(4 * i), word);
  device.configWrite(msix + 2, 2, 0x8000);
  nic.fire(VFIO_PCI_MSIX_IRQ_INDEX, 4);
  expect(environment.interrupts.take()).toMatchObject([
    { address: 0x8765_4321_fee0_1230n, data: 0xfedc_ba98 },
  ]);
});

test('without masks, MSI has no pending bits, and what follows at once is another capability’s', () => {
  using scope = new Scope();
  const config = createScriptedNic().config.slice();
  const view = new DataView(config.buffer);
  const next = msi + 0x10;
  view.setUint16(msi, (next << 8) | 0x05, true);
  view.setUint16(msi + 2, 0x0084, true); // 64 bits
  config.copyWithin(next, msix, msix + 12);
  view.setUint8(next + 1, 0);
  const { device } = openNic(scope, { config });
  device.configWrite(msi + 2, 2, 1);
  expect(device.configRead(next + 4, 4)).toBe(nicMsix.table | nicMsix.bar);
  expect(device.configRead(next + 8, 4)).toBe(nicMsix.pba | nicMsix.bar);
});

import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX } from '../../vfio/uapi.js';
import { fakeEnvironment } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicMsix, nicOffsets } from './scripted-nic.js';

const { msi, msix, exp, pm } = nicOffsets;
const COMMAND = 0x04;

/** The scripted card with changes to its configuration space: 16-bit words by offset. */
function openCard(
  scope: Scope,
  words: Readonly<Record<number, number>> = {},
  init: object = {},
  size: 256 | 4096 = 4096,
) {
  const config = createScriptedNic().config.slice(0, size);
  const view = new DataView(config.buffer);
  for (const [offset, word] of Object.entries(words)) view.setUint16(Number(offset), word, true);
  const nic = scope.own(createScriptedNic({ init: { config, ...init } }));
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 11 }));
  return { nic, device, environment };
}

/** Bits of a register that a guest can change. */
function writable(device: VfioPciDevice, offset: number, bytes: 1 | 2 | 4): number {
  device.configWrite(offset, bytes, 2 ** (8 * bytes) - 1);
  const ones = device.configRead(offset, bytes);
  device.configWrite(offset, bytes, 0);
  return (ones & ~device.configRead(offset, bytes)) >>> 0;
}

const MSI_64 = 0x0080;
const MSI_MASKABLE = 0x0100;
const DATA = 0xffff;
const ADDRESS = 0xffff_fffc;
const ALL = 0xffff_ffff;

describe('MSI', () => {
  // The capability is 0x18 bytes long at most, and nothing of the device's shows within its registers.
  test.each([
    { flags: 0, vectors: 4, is: { 4: ADDRESS, 8: DATA } },
    { flags: MSI_64, vectors: 4, is: { 4: ADDRESS, 8: ALL, 12: DATA } },
    { flags: MSI_MASKABLE, vectors: 4, is: { 4: ADDRESS, 8: DATA, 12: 0xf } },
    { flags: MSI_64 | MSI_MASKABLE, vectors: 4, is: { 4: ADDRESS, 8: ALL, 12: DATA, 16: 0xf } },
    { flags: MSI_64 | MSI_MASKABLE, vectors: 1, is: { 4: ADDRESS, 8: ALL, 12: DATA, 16: 1 } },
    { flags: MSI_64 | MSI_MASKABLE, vectors: 32, is: { 4: ADDRESS, 8: ALL, 12: DATA, 16: ALL } },
  ])('flags $flags with $vectors vectors: the registers of this layout are writable', (row) => {
    const { flags, vectors, is } = row;
    using scope = new Scope();
    const control = flags | (Math.log2(vectors) << 1);
    const irqs = { [VFIO_PCI_MSI_IRQ_INDEX]: { count: vectors } };
    // All registers behind the control are the device's own 0.
    const { device, nic } = openCard(scope, { [msi + 2]: control }, { irqs });
    expect(writable(device, msi + 2, 2)).toBe(0x71);
    expect(device.configRead(msi + 2, 2)).toBe(control);
    const before = nic.config.slice(msi + 4, msi + 0x14);
    for (const [at, bits] of Object.entries<number>(is)) {
      // Without masks, what follows the data is no longer the capability's.
      const bytes = bits === DATA && (flags & MSI_MASKABLE) === 0 ? 2 : 4;
      expect(writable(device, msi + Number(at), bytes), `register ${at}`).toBe(bits);
    }
    expect(nic.config.slice(msi + 4, msi + 8)).toEqual(before.slice(0, 4));
  });

  test.each([
    { capable: 5, count: 32, is: 5 },
    { capable: 5, count: 20, is: 4 },
    { capable: 2, count: 32, is: 2 },
    { capable: 7, count: 2048, is: 5 },
    { capable: 3, count: 1, is: 0 },
  ])('2^$capable vectors of the device and $count of the provider are 2^$is', ({ capable, count, is }) => {
    using scope = new Scope();
    const irqs = { [VFIO_PCI_MSI_IRQ_INDEX]: { count } };
    const { device } = openCard(scope, { [msi + 2]: MSI_64 | (capable << 1) | 1 }, { irqs });
    expect(device.configRead(msi + 2, 2)).toBe(MSI_64 | (is << 1));
  });
});

describe('MSI-X', () => {
  test('a guest can enable and mask it, and nothing else', () => {
    using scope = new Scope();
    const { device } = openCard(scope, { [msix + 2]: 0xc000 | (nicMsix.vectors - 1) });
    expect(device.configRead(msix + 2, 2)).toBe(nicMsix.vectors - 1);
    expect(writable(device, msix + 2, 2)).toBe(0xc000);
    for (const at of [4, 8]) {
      const was = device.configRead(msix + at, 4);
      expect(writable(device, msix + at, 4)).toBe(0);
      expect(device.configRead(msix + at, 4)).toBe(was);
    }
  });

  const END = 0x4000 - nicMsix.vectors * 16;
  test.each([
    { what: 'at the end of its BAR', table: END | 4, pba: 0x3000 | 4, isThere: true },
    { what: 'with the PBA at the end of its BAR', table: 0x2000 | 4, pba: 0x3ff8 | 4, isThere: true },
    { what: 'past the end of its BAR', table: (END + 8) | 4, pba: 0x3000 | 4, isThere: false },
    { what: 'with the PBA past the end of its BAR', table: 0x2000 | 4, pba: 0x4000 | 4, isThere: false },
    { what: 'in a BAR that does not exist', table: 0x2000 | 1, pba: 0x3000 | 4, isThere: false },
    { what: 'with the PBA in a BAR that does not exist', table: 0x2000 | 4, pba: 0x3000 | 3, isThere: false },
    { what: 'in the upper half of a BAR', table: 0x2000 | 5, pba: 0x3000 | 4, isThere: false },
    { what: 'in ports', table: 2, pba: 0x3000 | 4, isThere: false },
    { what: 'in two BARs', table: 0, pba: 0x3000 | 4, isThere: true },
  ])('a table $what: is it there? $isThere', ({ table, pba, isThere }) => {
    using scope = new Scope();
    const { device } = openCard(scope, {
      [msix + 4]: table & 0xffff,
      [msix + 6]: table >>> 16,
      [msix + 8]: pba & 0xffff,
      [msix + 10]: pba >>> 16,
    });
    expect(device.configRead(msix, 1)).toBe(isThere ? 0x11 : 0);
    device.configWrite(msix + 2, 2, 0x8000);
    expect(device.interruptMode).toBe(isThere ? 'msix' : 'intx');
  });
});

describe('PCI Express', () => {
  test.each([
    { type: 0x0, is: 0x9 },
    { type: 0x1, is: 0x1 },
    { type: 0x9, is: 0x9 },
  ])('type $type is $is in the guest, and not writable', ({ type, is }) => {
    using scope = new Scope();
    const { device } = openCard(scope, { [exp + 2]: 0x0202 | (type << 4) });
    expect(device.configRead(exp + 2, 2)).toBe(0x0202 | (is << 4));
  });

  test.each([
    { version: 1, second: 0x1234 },
    { version: 2, second: 0 },
  ])('version $version: links are hidden, the second set from version 2 on', ({ version, second }) => {
    using scope = new Scope();
    const links = { [exp + 0xc]: 0x1234, [exp + 0x12]: 0x1234, [exp + 0x2c]: 0x1234, [exp + 0x32]: 0x1234 };
    const around = { [exp + 0xa]: 0x5678, [exp + 0x14]: 0x5678, [exp + 0x2a]: 0x5678, [exp + 0x34]: 0x5678 };
    const { device } = openCard(scope, { ...links, ...around, [exp + 2]: version });
    expect(Object.keys(links).map((at) => device.configRead(Number(at), 2))).toEqual([0, 0, second, second]);
    expect(Object.keys(around).map((at) => device.configRead(Number(at), 2))).toEqual(
      new Array(4).fill(0x5678),
    );
  });

  test('without the capability, and with 256 bytes, there is no extended configuration space', () => {
    for (const [words, size] of [
      [{ [exp]: (nicOffsets.msix << 8) | 0x09 }, 4096],
      [{}, 256],
    ] as const) {
      using scope = new Scope();
      const { device, nic } = openCard(scope, words, {}, size);
      nic.calls.length = 0;
      expect(device.configRead(0x100, 4)).toBe(0xffff_ffff);
      device.configWrite(0x100, 4, 0);
      expect(device.configRead(0xfe, 4)).toBe(0xffff_ffff);
      expect(nic.calls).toEqual([]);
      expect(device.configRead(0xfc, 4)).not.toBe(0xffff_ffff);
    }
  });
});

test('a hidden capability reads 0 up to the next one, and its writes are dropped', () => {
  using scope = new Scope();
  const irqs = { [VFIO_PCI_MSI_IRQ_INDEX]: { count: 0 } };
  const { device, nic } = openCard(scope, {}, { irqs });
  for (let at = msi; at < exp; at += 4) {
    expect(device.configRead(at, 4), `0x${at.toString(16)}`).toBe(0);
    device.configWrite(at, 4, 0xffff_ffff);
  }
  expect(nic.config.slice(msi, exp)).toEqual(createScriptedNic().config.slice(msi, exp));
  expect(device.configRead(exp, 1)).toBe(0x10);
});

test('a capability that appears twice is emulated once, and both are in the list', () => {
  using scope = new Scope();
  // A second MSI-X, last in the list, where nothing else is.
  const { device } = openCard(scope, { [msix]: 0xe011, 224: 0x0011, 226: 0x8003 });
  expect([device.configRead(msix + 1, 1), device.configRead(0xe0, 2)]).toEqual([0xe0, 0x0011]);
  expect(device.configRead(0xe2, 2)).toBe(0x8003); // the device's own
  device.configWrite(msix + 2, 2, 0x8000);
  expect(device.interruptMode).toBe('msix');
});

test('a write that leaves D0 hides memory before the device sees it, at each width', () => {
  for (const [offset, bytes, value] of [
    [pm + 4, 1, 3],
    [pm + 4, 2, 3],
    [pm + 4, 4, 3],
    [pm + 2, 4, 3 << 16],
    [pm + 3, 2, 3 << 8],
  ] as const) {
    using scope = new Scope();
    const { device, nic, environment } = openCard(scope);
    device.configWrite(0x10, 4, 0xe000_0000);
    device.configWrite(COMMAND, 2, 2);
    expect(environment.mmio.ranges).toHaveLength(1);
    const write = nic.write.bind(nic);
    const seen: number[] = [];
    nic.write = (at, data) => {
      seen.push(environment.mmio.ranges.length);
      return write(at, data);
    };
    device.configWrite(offset, bytes, value);
    expect(seen, `${bytes} bytes at ${offset}`).toEqual([0]);
    expect(environment.mmio.ranges).toEqual([]);
    device.configWrite(pm + 4, 2, 0);
    expect(environment.mmio.ranges).toHaveLength(1);
  }
});

test('of a device that lets nothing be written, a guest can change what is emulated', () => {
  using scope = new Scope();
  const { device, nic } = openCard(scope, {}, { configWritable: new Uint8Array(4096) });
  const registers = { 4: 0x0407, 6: 0, 14: 0, 52: 0, [pm + 4]: 0, [msix + 2]: 0xc000, [exp + 2]: 0 };
  for (const [at, bits] of Object.entries(registers)) {
    expect(writable(device, Number(at), 2), `0x${Number(at).toString(16)}`).toBe(bits);
  }
  expect([0x10, 0x14, 0x18, 0x20, 0x24, 0x30].map((at) => writable(device, at, 4))).toEqual([
    ...[0xffff_8000, 0, 0xffff_ffe0, 0xffff_c000, 0xffff_ffff],
    0xffff_0001,
  ]);
  expect(nic.config).toEqual(createScriptedNic().config);
});

test('a write that stays in D0 moves nothing', () => {
  using scope = new Scope();
  const { device, environment } = openCard(scope);
  device.configWrite(0x10, 4, 0xe000_0000);
  device.configWrite(COMMAND, 2, 2);
  const [range] = environment.mmio.ranges;
  device.configWrite(pm + 4, 2, 0x0100); // PME enable
  expect(range).toBeDefined();
  expect(environment.mmio.ranges[0]).toBe(range);
});

test('a device with no capabilities and no interrupts can be configured, reset and detached', () => {
  using scope = new Scope();
  const { device, nic } = openCard(scope, { 6: 0, 52: 0 }, { irqs: {} });
  expect(device.interruptMode).toBe('none');
  expect(device.configRead(0x34, 1)).toBe(0);
  for (let at = 0; at < 256; at += 4) {
    device.configRead(at, 4);
    device.configWrite(at, 4, 0);
  }
  device.reset();
  expect(device.interruptMode).toBe('none');
  expect(nic.wired()).toEqual({});
});

test('the interrupt pin is the device’s if it is routed, and the line that of its route', () => {
  for (const [pin, irqs, is] of [
    [2, { [VFIO_PCI_INTX_IRQ_INDEX]: { count: 1 } }, 0x020b],
    [0, { [VFIO_PCI_INTX_IRQ_INDEX]: { count: 1 } }, 0],
    [2, { [VFIO_PCI_MSIX_IRQ_INDEX]: { count: 1 } }, 0],
  ] as const) {
    using scope = new Scope();
    const { device } = openCard(scope, { 60: pin << 8 }, { irqs });
    expect(device.configRead(0x3c, 2)).toBe(is);
    expect(writable(device, 0x3c, 1)).toBe(0xff);
    expect(writable(device, 0x3d, 1)).toBe(0);
  }
});

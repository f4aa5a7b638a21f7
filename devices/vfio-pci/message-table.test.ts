import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX } from '../../vfio/uapi.js';
import { fakeEnvironment } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { readMsixShape } from './msix.js';
import { createScriptedNic, nicOffsets } from './scripted-nic.js';

const MSIX = VFIO_PCI_MSIX_IRQ_INDEX;
const CONTROL = nicOffsets.msix + 2;
const VECTORS = 70;
const TABLE_AT = 0x1000;
const PBA_AT = 0x2800;
const BAR4 = 0xe010_0000n;
const TABLE = BAR4 + BigInt(TABLE_AT);
const PBA = BAR4 + BigInt(PBA_AT);

/** A card with more vectors than one word of the PBA holds, and both of its tables past the start of a page. */
function openCard(scope: Scope) {
  const config = createScriptedNic().config.slice();
  const view = new DataView(config.buffer);
  view.setUint16(CONTROL, VECTORS - 1, true);
  view.setUint32(nicOffsets.msix + 4, TABLE_AT | 4, true);
  view.setUint32(nicOffsets.msix + 8, PBA_AT | 4, true);
  const irqs = { [MSIX]: { count: VECTORS, flags: VFIO_IRQ_INFO_EVENTFD } };
  const nic = scope.own(createScriptedNic({ init: { config, irqs } }));
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', nic, environment));
  device.configWrite(0x20, 4, Number(BAR4));
  device.configWrite(0x04, 2, 0x0006);
  return { nic, device, environment, mmio: environment.mmio };
}

describe('the MSI-X table', () => {
  test('each register of each vector is read back where it was written, at every width and alignment', () => {
    using scope = new Scope();
    const { mmio } = openCard(scope);
    const expected = new Uint8Array(VECTORS * 16);
    for (let word = 0; word < VECTORS * 4; word++) {
      const value = 0x0101_0101 * ((word % 251) + 1);
      new DataView(expected.buffer).setUint32(word * 4, value, true);
      mmio.write32(TABLE + BigInt(word * 4), value);
    }
    for (const bytes of [1, 2, 4, 8]) {
      for (let at = 0; at + bytes <= expected.length; at++) {
        const read = mmio.read(TABLE + BigInt(at), bytes);
        if (Buffer.compare(read, expected.subarray(at, at + bytes)) !== 0) throw new Error(`${at}+${bytes}`);
      }
    }
  });

  test('at power-on and after a reset, every vector is masked and all else is 0', () => {
    using scope = new Scope();
    const { mmio, device, nic } = openCard(scope);
    const words = (): number[] =>
      Array.from({ length: VECTORS * 4 }, (_, word) => mmio.read32(TABLE + BigInt(word * 4)));
    const masked = Array.from({ length: VECTORS * 4 }, (_, word) => (word % 4 === 3 ? 1 : 0));
    expect(words()).toEqual(masked);
    for (let word = 0; word < VECTORS * 4; word++) mmio.write32(TABLE + BigInt(word * 4), 0xffff_fffe);
    device.reset();
    device.configWrite(0x20, 4, Number(BAR4));
    device.configWrite(0x04, 2, 0x0006);
    expect(words()).toEqual(masked);
    expect(nic.wired()[MSIX]).toBe(undefined);
  });

  test('an access across the end of the table is split: the device has what lies past it', () => {
    using scope = new Scope();
    const { mmio } = openCard(scope);
    const end = TABLE + BigInt(VECTORS * 16);
    mmio.write32(end, 0xa5a5_5a5a);
    expect([...mmio.read(end - 4n, 8)]).toEqual([1, 0, 0, 0, 0x5a, 0x5a, 0xa5, 0xa5]);
    mmio.write(end - 4n, new Uint8Array([0, 0, 0, 0, 1, 2, 3, 4]));
    expect(mmio.read32(end - 4n)).toBe(0);
    expect(mmio.read32(end)).toBe(0x0403_0201);
  });

  test('next to the table and the PBA, the region is the device’s', () => {
    using scope = new Scope();
    const { mmio, nic } = openCard(scope);
    for (const at of [TABLE_AT - 4, TABLE_AT + VECTORS * 16, PBA_AT - 4, PBA_AT + 16]) {
      mmio.write32(BAR4 + BigInt(at), 0x1234_5678);
      expect(mmio.read32(BAR4 + BigInt(at)), `0x${at.toString(16)}`).toBe(0x1234_5678);
      expect(new DataView(nic.region(4).buffer).getUint32(at, true)).toBe(0x1234_5678);
    }
  });

  test('one write of several words updates every vector that it touches', () => {
    using scope = new Scope();
    const { mmio, device, nic, environment } = openCard(scope);
    device.configWrite(CONTROL, 2, 0x8000);
    const entries = new Uint32Array([0xfee0_1000, 0, 0x41, 0, 0xfee0_2000, 1, 0x42, 0]);
    mmio.write(TABLE + 3n * 16n, new Uint8Array(entries.buffer));
    expect(nic.wired()[MSIX]).toEqual([3, 4]);
    nic.fire(MSIX, 3);
    nic.fire(MSIX, 4);
    expect(environment.interrupts.take()).toMatchObject([
      { address: 0xfee0_1000n, data: 0x41 },
      { address: 0x1_fee0_2000n, data: 0x42 },
    ]);
  });

  test('a vector for which the host has no interrupt left is not asked of the device', () => {
    using scope = new Scope();
    const { mmio, device, nic, environment } = openCard(scope);
    device.configWrite(CONTROL, 2, 0x8000);
    environment.interrupts.limit = 1;
    nic.calls.length = 0;
    for (const vector of [3n, 5n]) mmio.write32(TABLE + vector * 16n, 0xfee0_0000);
    expect(nic.calls.filter(({ call }) => call === 'setIrqs')).toHaveLength(1);
    expect(nic.wired()[MSIX]).toEqual([3]);
  });

  test('a vector is in use with either half of its address, or unmasked', () => {
    for (const [word, value] of [
      [0, 0xfee0_0000],
      [1, 1],
      [3, 0],
    ] as const) {
      using scope = new Scope();
      const { mmio, device, nic } = openCard(scope);
      mmio.write32(TABLE + BigInt(5 * 16 + word * 4), value);
      device.configWrite(CONTROL, 2, 0x8000);
      expect(nic.wired()[MSIX], `word ${word}`).toEqual([5]);
    }
    using scope = new Scope();
    const { mmio, device, nic } = openCard(scope);
    mmio.write32(TABLE + 5n * 16n + 8n, 0x41); // data alone
    device.configWrite(CONTROL, 2, 0x8000);
    expect(nic.wired()[MSIX]).toEqual([]);
  });
});

describe('the PBA', () => {
  test('has one bit a vector, in every byte of every word, at every width', () => {
    using scope = new Scope();
    const { mmio, device, nic } = openCard(scope);
    for (let vector = 0; vector < VECTORS; vector++) {
      mmio.write32(TABLE + BigInt(vector * 16), 0xfee0_0000);
    }
    device.configWrite(CONTROL, 2, 0x8000);
    const pending = [0, 7, 8, 31, 32, 63, 64, 69];
    const expected = new Uint8Array(16);
    for (const vector of pending) {
      expect(nic.fire(MSIX, vector)).toBe(true);
      expected[vector >> 3] = (expected[vector >> 3] as number) | (1 << (vector & 7));
    }
    for (const bytes of [1, 2, 4, 8]) {
      for (let at = 0; at + bytes <= 16; at += bytes) {
        expect(mmio.read(PBA + BigInt(at), bytes), `${at}+${bytes}`).toEqual(expected.slice(at, at + bytes));
      }
    }
  });
});

test.each([
  { vectors: 1, table: 0x2003, pba: 0x3000, is: [3, 0x2000, 16, 0, 0x3000, 8] },
  { vectors: 64, table: 0x1_0002, pba: 0x1_8002, is: [2, 0x1_0000, 1024, 2, 0x1_8000, 8] },
  { vectors: 65, table: 0xffff_f005, pba: 0x8, is: [5, 0xffff_f000, 1040, 0, 8, 16] },
  { vectors: 2048, table: 0x7, pba: 0x8_0007, is: [7, 0, 0x8000, 7, 0x8_0000, 256] },
])('the MSI-X capability of $vectors vectors is read as it stands', ({ vectors, table, pba, is }) => {
  // Enable and function mask are set as well: they do not count.
  const registers: Readonly<Record<number, number>> = { 82: 0xc000 | (vectors - 1), 84: table, 88: pba };
  const shape = readMsixShape((offset) => registers[offset] ?? 0xffff_ffff, 0x50);
  expect(shape.vectors).toBe(vectors);
  expect([
    ...[shape.table.bar, shape.table.offset, shape.table.size],
    ...[shape.pba.bar, shape.pba.offset, shape.pba.size],
  ]).toEqual(is);
});

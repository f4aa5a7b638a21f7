import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { VFIO_PCI_ROM_REGION_INDEX } from '../../vfio/uapi.js';
import { recordTrace } from '../testing/fake-ports.js';
import { type Bench, COMMAND, openNic, place, ROM, shown } from './nic-bench.js';

describe('expansion ROM', () => {
  test('the ROM is readable where the guest enables it, read-only, and needs memory decoding', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    nic.region(VFIO_PCI_ROM_REGION_INDEX).set([0x55, 0xaa, 0x40, 0x00]);
    device.configWrite(ROM, 4, 0xffffffff);
    expect(device.configRead(ROM, 4)).toBe(0xffff0001);
    device.configWrite(ROM, 4, 0xe0200001);
    expect(shown(bench)).toEqual([]);
    place(bench);
    device.configWrite(COMMAND, 2, 0x2);
    expect(environment.mmio.read32(0xe0200000n)).toBe(0x0040aa55);
    environment.mmio.write32(0xe0200000n, 0);
    expect(environment.mmio.read32(0xe0200000n)).toBe(0x0040aa55);
    device.configWrite(ROM, 4, 0xe0200000);
    expect(environment.mmio.ranges).toHaveLength(2);
  });
});

describe('the contents of the ROM', () => {
  const enable = ({ device }: Bench): void => {
    device.configWrite(ROM, 4, 0xe0200001);
    device.configWrite(COMMAND, 2, 0x2);
  };
  const romReads = ({ nic }: Bench) =>
    nic.calls.filter((call) => call.call === 'read' && call.region === VFIO_PCI_ROM_REGION_INDEX);
  const slots = ({ environment: { memory } }: Bench) =>
    memory.slots
      .filter(({ name }) => name.includes('ROM'))
      .map(({ gpa, bytes, isReadonly }) => [gpa, bytes, isReadonly]);

  test('are read once, at the first enable, however often the guest reads, enables and resets', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    nic.region(VFIO_PCI_ROM_REGION_INDEX).set([0x55, 0xaa, 0x40]);
    expect(romReads(bench)).toHaveLength(0);
    for (let round = 0; round < 3; round++) {
      enable(bench);
      expect(slots(bench)).toEqual([[0xe0200000n, 0x10000n, true]]);
      for (let at = 0n; at < 0x10000n; at += 0x400n) environment.mmio.read32(0xe0200000n + at);
      expect(environment.mmio.read32(0xe0200000n)).toBe(0x0040aa55);
      device.configWrite(ROM, 4, 0xe0200000);
      expect(slots(bench)).toEqual([]);
      device.reset();
    }
    expect(romReads(bench)).toEqual([
      { call: 'read', region: VFIO_PCI_ROM_REGION_INDEX, at: 0, bytes: 0x10000 },
    ]);
  });

  test('that cannot be read are all-ones, with one note', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    using notes = recordTrace(trace.vfio);
    bench.device.configWrite(ROM, 4, 0xe0200001);
    bench.nic.failures.set('read', 'EIO');
    bench.device.configWrite(COMMAND, 2, 0x2);
    for (let at = 0n; at < 64n; at += 4n)
      expect(bench.environment.mmio.read32(0xe0200000n + at)).toBe(0xffffffff);
    const texts = notes.events.filter(({ what }) => what === 'rom').map(({ text }) => text);
    expect(texts).toEqual(['the ROM reads as all-ones from 0x0 on: read on scripted device: EIO']);
  });

  test('are served from memory where no slot can be had, and of a ROM smaller than a page', () => {
    for (const [size, failure] of [
      [0x10000, 'ENOSPC'],
      [0x800, undefined],
    ] as const) {
      using scope = new Scope();
      const regions = { [VFIO_PCI_ROM_REGION_INDEX]: { size, flags: 1 } };
      const bench = openNic(scope, { init: { regions } });
      bench.nic.region(VFIO_PCI_ROM_REGION_INDEX).set([0x55, 0xaa, 0x01, 0x02], size - 4);
      bench.environment.memory.failure = failure;
      enable(bench);
      expect(slots(bench)).toEqual([]);
      expect(bench.environment.mmio.read32(0xe0200000n + BigInt(size - 4))).toBe(0x0201aa55);
      bench.environment.mmio.write32(0xe0200000n, 0);
      expect(bench.environment.mmio.read32(0xe0200000n)).toBe(0);
      expect(romReads(bench)).toHaveLength(1);
    }
  });
});

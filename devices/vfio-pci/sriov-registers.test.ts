import { expect, test } from 'vitest';
import type { SriovFunctions, VfBar } from '../../vfio/sriov.js';
import { ConfigSpace } from '../pci/config-space.js';
import { PCI_SRIOV_BAR, PCI_SRIOV_SYS_PGSIZE } from '../pci/pci-regs.js';
import { addSriovRegisters, SriovRegisters, sriovProblem } from './sriov-registers.js';

const low: VfBar = { index: 0, kind: 'memory32', isPrefetchable: false, size: 0x2000n };
const high: VfBar = { index: 4, kind: 'memory64', isPrefetchable: true, size: 0x1_0000n };

const source = (more: Partial<SriovFunctions<unknown>> = {}): SriovFunctions<unknown> => ({
  ...{ capabilityAt: 0x100, totalVfs: 4, deviceId: 7, bars: [low, high], create: () => undefined },
  ...more,
});

test.each([
  [undefined, {}, []],
  [undefined, { capabilityAt: 0xfc0 }, [0x100, 0xfb0]],
  ['the capability cannot be at 0xfc4', { capabilityAt: 0xfc4 }, []],
  ['the capability cannot be at 0xc0', { capabilityAt: 0xc0 }, []],
  ['the capability cannot be at 0x102', { capabilityAt: 0x102 }, []],
  ['the capability cannot be at 0xNaN', { capabilityAt: Number.NaN }, []],
  ['a capability of the device is at 0x100, too', {}, [0x13c]],
  ['0 virtual functions', { totalVfs: 0 }, []],
  ['1.5 virtual functions', { totalVfs: 1.5 }, []],
  ['65536 virtual functions', { totalVfs: 0x1_0000 }, []],
  ['VF BAR 0 of 3 bytes', { bars: [{ ...low, size: 3n }] }, []],
  ['VF BAR 0 of 0 bytes', { bars: [{ ...low, size: 0n }] }, []],
  ['VF BAR 0 of 4294967296 bytes', { bars: [{ ...low, size: 1n << 32n }] }, []],
  ['VF BAR 5 of 65536 bytes', { bars: [{ ...high, index: 5 }] }, []],
  ['VF BAR 5 of 8192 bytes', { bars: [high, { ...low, index: 5 }] }, []],
] as const)('what is wrong with VFs: %s', (problem, more, others) => {
  expect(sriovProblem(source(more), others)).toBe(problem);
});

test('VFs are one BAR apart, and the one that would end past the register’s width is nowhere', () => {
  const space = new ConfigSpace(4096);
  addSriovRegisters(space, { source: source(), places: { function: 0, firstOffset: 1, stride: 1 } });
  const registers = new SriovRegisters(space, source());
  registers.resize();
  const at = (bar: VfBar) => [0, 1, 2, 3].map((vf) => registers.address(bar, vf));
  const set = (index: number, value: number) => space.write(0x100 + PCI_SRIOV_BAR + 4 * index, 4, value);
  set(0, 0xffff_c000);
  set(4, 0xfffe_0000);
  set(5, 0xffff_ffff);
  expect(at(low)).toEqual([0xffff_c000n, 0xffff_e000n, undefined, undefined]);
  expect(at(high)).toEqual([0xffff_ffff_fffe_0000n, 0xffff_ffff_ffff_0000n, undefined, undefined]);
  set(0, 0xffff_ffff);
  expect(at(low), 'a sizing probe').toEqual([undefined, undefined, undefined, undefined]);
  space.write(0x100 + PCI_SRIOV_SYS_PGSIZE, 4, 0x100);
  registers.resize();
  set(0, 0xe000_0000);
  expect(at(low)).toEqual([0xe000_0000n, 0xe010_0000n, 0xe020_0000n, 0xe030_0000n]);
});

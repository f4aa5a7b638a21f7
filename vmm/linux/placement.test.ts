import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GuestImageError } from '../boot-elf.js';
import { buildE820, type PhysicalRange } from './e820.js';
import { FIRMWARE_RANGES, LEGACY_RANGE, placeInitrd, placeKernel } from './placement.js';

const MIB = 0x10_0000n;
const mapOf = (mib: bigint, reserved: PhysicalRange[] = []) =>
  buildE820({
    ram: [{ base: 0n, bytes: mib * MIB }],
    reserved: [...FIRMWARE_RANGES, ...reserved],
    hidden: [LEGACY_RANGE],
  });
const kernel = { path: 'vmlinuz', base: 16n * MIB, bytes: 40n * MIB, alignment: 2n * MIB };
const placed = { base: 16n * MIB, bytes: 40n * MIB };
const HIGHEST = 0x7fff_ffffn;

test('a kernel is placed at its preferred address', () => {
  expect(placeKernel(kernel, mapOf(64n))).toEqual({ base: 16n * MIB, bytes: 40n * MIB });
  expect(placeKernel({ ...kernel, alignment: undefined }, mapOf(56n)).base).toBe(16n * MIB);
});

test('if that is reserved, a relocatable kernel goes to the next aligned address, another is rejected', () => {
  const map = mapOf(256n, [{ base: 20n * MIB, bytes: MIB }]);
  expect(placeKernel(kernel, map).base).toBe(22n * MIB);
  expect(() => placeKernel({ ...kernel, alignment: undefined }, map)).toThrowError(GuestImageError);
});

test('too little memory is reported in numbers, with the remedy', () => {
  expect(() => placeKernel(kernel, mapOf(32n))).toThrowError(
    'vmlinuz: needs 0x1000000-0x37fffff, but the guest has memory up to 32 MiB\n  hint: give it 56 MiB or more with --memory',
  );
  expect(() => placeKernel(kernel, mapOf(1n))).toThrowError(/no memory above 1 MiB/);
});

test('an initrd is placed at the end of memory, page-aligned', () => {
  expect(placeInitrd({ path: 'i', bytes: 5000n }, placed, HIGHEST, mapOf(64n))).toEqual({
    base: 64n * MIB - 0x2000n,
    bytes: 5000n,
  });
});

test('an initrd stays below what the kernel can read, and below the devices', () => {
  const initrd = { path: 'i', bytes: 4096n };
  expect(placeInitrd(initrd, placed, HIGHEST, mapOf(8192n)).base).toBe(2048n * MIB - 0x1000n);
  expect(placeInitrd(initrd, placed, 0xffff_ffffn, mapOf(8192n)).base).toBe(3072n * MIB - 0x1000n);
});

test('an initrd goes below the kernel when there is no room above', () => {
  const initrd = placeInitrd({ path: 'i', bytes: 10n * MIB }, placed, HIGHEST, mapOf(60n));
  expect(initrd).toEqual({ base: 6n * MIB, bytes: 10n * MIB });
});

test('an initrd that is too big is reported in numbers, with the remedy', () => {
  const big = (bytes: bigint) => () => placeInitrd({ path: 'i.img', bytes }, placed, HIGHEST, mapOf(64n));
  expect(big(100n * MIB)).toThrowError(
    'i.img: has 104857600 bytes (100 MiB), too many beside the kernel at 0x1000000-0x37fffff\n  hint: give the guest 156 MiB or more with --memory',
  );
  expect(big(2000n * MIB)).toThrowError(/make it smaller: the kernel reads it below 2048 MiB only/);
});

test('kernel and initrd are placed in RAM without overlap, or rejected with the memory they need', () => {
  const sizes = fc.tuple(fc.nat(120), fc.nat(60), fc.nat(80));
  const hole = fc.tuple(fc.nat(120), fc.integer({ min: 1, max: 8 }));
  fc.assert(
    fc.property(sizes, hole, ([ram, kernelMib, initrdMib], [at, length]) => {
      const reserved = [{ base: BigInt(at) * MIB, bytes: BigInt(length) * MIB }];
      const map = mapOf(BigInt(ram + 2), reserved);
      const isRam = ({ base, bytes }: PhysicalRange) =>
        map.some(
          (range) => range.type === 1 && range.base <= base && base + bytes <= range.base + range.bytes,
        );
      try {
        const here = placeKernel({ ...kernel, bytes: BigInt(kernelMib + 1) * MIB }, map);
        expect(isRam(here) && here.base % (2n * MIB) === 0n).toBe(true);
        const initrd = placeInitrd({ path: 'i', bytes: BigInt(initrdMib) * MIB + 1n }, here, HIGHEST, map);
        expect(isRam(initrd)).toBe(true);
        expect(initrd.base >= here.base + here.bytes || initrd.base + initrd.bytes <= here.base).toBe(true);
      } catch (error) {
        expect(error).toBeInstanceOf(GuestImageError);
        expect((error as Error).message).toMatch(/hint: give/);
      }
    }),
  );
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { GuestImageError } from '../boot-elf.js';
import type { BzImage } from './bzimage.js';
import { openInitrd } from './initrd.js';
import { parseKernel, readKernel } from './kernel.js';
import { MIB, makeBzImage, makePvh } from './testing.js';

test('a bzImage declares its needs and the part to load', () => {
  const file = makeBzImage(Uint8Array.of(0xf4));
  const image = parseKernel('k', file) as BzImage;
  expect(image).toMatchObject({ kind: 'bzimage', cmdlineBytes: 2047, highestInitrdByte: 0x7fff_ffffn });
  expect(image.needs).toEqual({
    path: 'k',
    base: 0x100_0000n,
    bytes: BigInt(16 * MIB),
    alignment: 0x20_0000n,
  });
  expect(image.payload).toEqual(file.subarray(2048));
  expect(image.headerBytes).toEqual(file.subarray(0x1f1, 0x26c));
});

test('a setup size of 0 sectors means 4, as in old kernels', () => {
  const file = new Uint8Array(5 * 512 + 64);
  file.set(makeBzImage(new Uint8Array(0), { setup_sects: 0, syssize: 4 }).subarray(0, 0x26c));
  expect((parseKernel('k', file) as BzImage).payload).toHaveLength(64);
});

test('a PVH kernel declares its entry and the place of its segments, and is not relocatable', () => {
  const image = parseKernel('k', makePvh(Uint8Array.of(0xf4)));
  expect(image).toMatchObject({ kind: 'pvh', entry: 0x100_0000n, cmdlineBytes: 2047 });
  expect(image.needs).toEqual({ path: 'k', base: 0x100_0000n, bytes: 4096n });
});

test('a kernel truncated at any byte is rejected, and never read past its end', () => {
  for (const file of [makeBzImage(), makePvh()]) {
    for (let length = 0; length < file.length; length++)
      expect(() => parseKernel('cut', file.subarray(0, length)), `${length} bytes`).toThrowError(
        GuestImageError,
      );
  }
  expect(() => parseKernel('cut', makeBzImage().subarray(0, 2048))).toThrowError(
    'cut: is cut short: 2048 bytes, but its header speaks of 2576\n  hint: copy it again',
  );
});

test('kernels that cannot be entered are rejected with what they lack', () => {
  const bz = (header: Parameters<typeof makeBzImage>[1]) => () =>
    parseKernel('k', makeBzImage(undefined, header));
  expect(bz({ version: 0x20b })).toThrowError(/has boot protocol 2.11\n.*2.12 \(Linux 3.8\)/);
  expect(bz({ loadflags: 0 })).toThrowError(/has boot protocol/);
  expect(bz({ xloadflags: 0 })).toThrowError(/has no 64-bit entry\n.*give a kernel for x86-64/);
  expect(() => parseKernel('k', makePvh(undefined, 1))).toThrowError(/without a PVH entry\n.*CONFIG_PVH/);
});

test('files other than kernels are rejected with what they are', () => {
  const kind =
    (...bytes: number[]) =>
    () =>
      parseKernel('x', Uint8Array.from(bytes));
  expect(kind(0x1f, 0x8b, 8)).toThrowError(/x: is not a Linux kernel: it is compressed by gzip/);
  expect(kind(0x30, 0x37, 0x30, 0x37, 0x30, 0x31)).toThrowError(/perhaps the initrd/);
  expect(kind(0x23, 0x21)).toThrowError(/neither the header of a bzImage nor that of an ELF file/);
  expect(kind()).toThrowError(GuestImageError);
  expect(() => readKernel('/no/such/kernel')).toThrowError('there is no file /no/such/kernel');
});

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'initrd-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
}

test('an initrd is read on request, and reported if it has shrunk', () => {
  const path = join(folder(), 'initrd');
  writeFileSync(path, 'abcdef');
  const initrd = openInitrd(path);
  expect(initrd.bytes).toBe(6n);
  const target = new Uint8Array(6);
  initrd.copyTo(target);
  expect(Buffer.from(target).toString()).toBe('abcdef');
  writeFileSync(path, 'abc');
  expect(() => initrd.copyTo(target)).toThrowError(/has shrunk to 3 of 6 bytes/);
});

test('a missing or empty initrd is rejected at once', () => {
  const path = join(folder(), 'initrd');
  expect(() => openInitrd(path)).toThrowError(`there is no file ${path}`);
  writeFileSync(path, '');
  expect(() => openInitrd(path)).toThrowError(/is an empty initrd/);
});

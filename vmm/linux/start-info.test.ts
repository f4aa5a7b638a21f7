import { expect, test } from 'vitest';
import { checkHeaders } from '../../sys/testing/header-check.js';
import { GuestImageError } from '../boot-elf.js';
import * as startInfo from './start-info.js';

test('every structure and constant matches Xen’s start_info.h', ({ skip }) => {
  const check = checkHeaders({
    headers: ['stdint.h', 'xen/arch-x86/hvm/start_info.h'],
    tables: [startInfo],
  });
  if (check.unavailable !== undefined) skip(check.unavailable);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThan(30);
});

const facts = {
  kernel: { base: 0x100_0000n, bytes: 0x1000n },
  initrd: undefined,
  cmdline: 0x8000n,
  rsdp: 0xe_0000n,
  map: [{ base: 0n, bytes: 0xa_0000n, type: 1 as const }],
};

test('the memory map and the initrd are found at their addresses', () => {
  const bytes = startInfo.buildStartInfo(
    'k',
    { ...facts, initrd: { base: 0x200_0000n, bytes: 77n } },
    0xb000n,
  );
  const info = startInfo.HvmStartInfo.decode(bytes);
  expect(info).toMatchObject({ magic: 0x336ec578, version: 1, nr_modules: 1, memmap_entries: 1 });
  expect(info).toMatchObject({ cmdline_paddr: 0x8000n, rsdp_paddr: 0xe_0000n });
  const initrd = startInfo.HvmModlistEntry.decode(bytes, Number(info.modlist_paddr - 0xb000n));
  expect(initrd).toMatchObject({ paddr: 0x200_0000n, size: 77n });
  const range = startInfo.HvmMemmapTableEntry.decode(bytes, Number(info.memmap_paddr - 0xb000n));
  expect(range).toMatchObject({ addr: 0n, size: 0xa_0000n, type: 1 });
});

test('without an initrd there is no module', () => {
  const info = startInfo.HvmStartInfo.decode(startInfo.buildStartInfo('k', facts, 0xb000n));
  expect(info).toMatchObject({ nr_modules: 0, modlist_paddr: 0n });
});

test('a memory map that does not fit is rejected', () => {
  const map = Array.from({ length: 200 }, () => facts.map[0]!);
  expect(() => startInfo.buildStartInfo('k', { ...facts, map }, 0xb000n)).toThrowError(GuestImageError);
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { BootE820Entry, BootParams } from './bootparam.js';
import type { E820Range, PhysicalRange } from './e820.js';
import { openInitrd } from './initrd.js';
import { parseKernel, readKernel } from './kernel.js';
import { ACPI_TABLES, BOOT_GDT, GENERATION_ID, START_INFO, ZERO_PAGE } from './placement.js';
import { prepareLinux, renewGeneration } from './prepare.js';
import { HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo } from './start-info.js';
import { findRealKernel, MIB, makeBzImage, makePvh, memoryOf } from './testing.js';

const code = Uint8Array.from({ length: 64 }, (_, i) => i + 1);

function initrdOf(bytes: number) {
  const path = mkdtempSync(join(tmpdir(), 'initrd-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  writeFileSync(join(path, 'initrd'), Buffer.alloc(bytes, 0xa5));
  return openInitrd(join(path, 'initrd'));
}

const textAt = (memory: ReturnType<typeof memoryOf>, at: bigint): string => {
  const bytes = memory.ram(at, 4096);
  return Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString();
};

test('a bzImage, its initrd and its boot data are where boot_params and registers point', () => {
  using scope = new Scope();
  const memory = memoryOf(scope, 64);
  const kernel = parseKernel('k', makeBzImage(code));
  const done = prepareLinux({ kernel, initrd: initrdOf(5000), cmdline: 'quiet x=1', memory, vcpus: 2 });
  const { regs, sregs } = done.entry;
  expect(regs).toEqual({ rip: 0x100_0200n, rsi: ZERO_PAGE, rflags: 2n });
  expect(memory.ram(0x100_0200n, code.length)).toEqual(code);
  const page = BootParams.decode(memory.ram(ZERO_PAGE, 4096));
  expect(page.hdr).toMatchObject({ type_of_loader: 0xff, code32_start: 0x100_0000, ramdisk_size: 5000 });
  expect(page).toMatchObject({ acpi_rsdp_addr: done.rsdp, ext_ramdisk_image: 0, sentinel: 0 });
  expect(textAt(memory, BigInt(page.hdr.cmd_line_ptr))).toBe('quiet x=1');
  expect(new Set(memory.ram(BigInt(page.hdr.ramdisk_image), 5000))).toEqual(new Set([0xa5]));
  expect(Buffer.from(memory.ram(done.rsdp, 8)).toString()).toBe('RSD PTR ');
  expect(Buffer.from(memory.ram(0xf_0000n, 4)).toString()).toBe('_MP_');
  expect(page.e820_table.slice(0, page.e820_entries)).toEqual(
    done.map.map(({ base: addr, bytes: size, type }) => ({ addr, size, type })),
  );
  expect(BootE820Entry.size).toBe(20);
  expect(sregs.gdt).toMatchObject({ base: BOOT_GDT, limit: 31 });
  const gdt = new BigUint64Array(memory.ram(BOOT_GDT, 32).slice().buffer);
  expect(sregs.cs).toMatchObject({ selector: 0x10, l: 1, db: 0 });
  expect([gdt[2], gdt[3]]).toEqual([0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);
  for (const segment of [sregs.ds, sregs.es, sregs.ss]) expect(segment).toMatchObject({ selector: 0x18 });
});

test('a PVH kernel is entered in 32-bit mode with hvm_start_info in EBX', () => {
  using scope = new Scope();
  const memory = memoryOf(scope, 64);
  const kernel = parseKernel('k', makePvh(code));
  memory.ram(0x100_0000n, 4096).fill(0xee); // left over from an earlier run
  const done = prepareLinux({ kernel, initrd: initrdOf(9), cmdline: 'a b', memory, vcpus: 1 });
  expect(done.entry.regs).toEqual({ rip: 0x100_0000n, rbx: START_INFO, rflags: 2n });
  expect(done.entry.sregs).toMatchObject({
    cr0: 0x11n,
    cr4: 0n,
    efer: 0n,
    cs: { db: 1, l: 0, limit: 0xffff_ffff },
  });
  const segment = memory.ram(0x100_0000n, 4096);
  expect(segment.subarray(0, code.length)).toEqual(code);
  expect(new Set(segment.subarray(code.length))).toEqual(new Set([0]));
  const info = HvmStartInfo.decode(memory.ram(START_INFO, HvmStartInfo.size));
  expect(textAt(memory, info.cmdline_paddr)).toBe('a b');
  expect(info.rsdp_paddr).toBe(ACPI_TABLES);
  const module = HvmModlistEntry.decode(memory.ram(info.modlist_paddr, HvmModlistEntry.size));
  expect(module).toMatchObject({ paddr: done.initrd?.base, size: 9n });
  const entries = memory.ram(info.memmap_paddr, info.memmap_entries * HvmMemmapTableEntry.size);
  const types = done.map.map(
    (_, i) => HvmMemmapTableEntry.decode(entries, i * HvmMemmapTableEntry.size).type,
  );
  expect(types).toEqual(done.map.map(({ type }) => type));
});

test('the memory map has RAM on both sides of the devices, and omits reserved ranges', () => {
  using scope = new Scope();
  const memory = memoryOf(scope, 4096);
  const reserved = [{ base: 0x2000_0000n, bytes: 0x10_0000n }];
  const { map } = prepareLinux({
    kernel: parseKernel('k', makeBzImage()),
    cmdline: '',
    memory,
    vcpus: 1,
    reserved,
  });
  const text = map.map(
    ({ base, bytes, type }) => `${base.toString(16)}-${(base + bytes - 1n).toString(16)} ${type}`,
  );
  expect(text).toEqual([
    '0-9ffff 1',
    'e0000-fffff 2',
    '100000-1fffffff 1',
    '20000000-200fffff 2',
    '20100000-bfffffff 1',
    'e0000000-efffffff 2',
    'fffbc000-ffffffff 2',
    '100000000-13fffffff 1',
  ]);
});

test('a command line that the kernel would truncate is rejected with the lengths', () => {
  using scope = new Scope();
  const memory = memoryOf(scope, 64);
  const kernel = parseKernel('k', makeBzImage(code, { cmdline_size: 255 }));
  const prepare = (cmdline: string) => () => prepareLinux({ kernel, cmdline, memory, vcpus: 1 });
  expect(prepare('x'.repeat(255))).not.toThrow();
  expect(prepare('ä'.repeat(128))).toThrowError(
    'k: takes a command line of 255 bytes, not of 256\n  hint: make it 1 bytes shorter',
  );
});

const isWithin = (map: readonly E820Range[], { base, bytes }: PhysicalRange): boolean =>
  map.some((range) => range.type === 1 && base >= range.base && base + bytes <= range.base + range.bytes);

test('a real kernel and a large initrd are placed in memory without overlap', ({ skip }) => {
  const found = findRealKernel();
  if ('missing' in found) skip(found.missing);
  const kernel = readKernel((found as { path: string }).path);
  using scope = new Scope();
  const memory = memoryOf(scope, 256);
  const initrd = initrdOf(100 * MIB + 123);
  const done = prepareLinux({ kernel, initrd, cmdline: 'console=ttyS0', memory, vcpus: 4 });
  const placedInitrd = done.initrd as PhysicalRange;
  expect(isWithin(done.map, done.kernel)).toBe(true);
  expect(isWithin(done.map, placedInitrd)).toBe(true);
  expect(done.kernel.base + done.kernel.bytes).toBeLessThanOrEqual(placedInitrd.base);
  expect(done.kernel.bytes).toBeGreaterThan(BigInt(8 * MIB));
  expect(done.entry.regs.rip).toBe(done.kernel.base + 0x200n);
  // The 64-bit entry of every kernel starts with: cld; cli
  expect([...memory.ram(done.kernel.base + 0x200n, 2)]).toEqual([0xfc, 0xfa]);
  const page = BootParams.decode(memory.ram(ZERO_PAGE, 4096));
  expect(page.hdr.header).toBe(0x53726448);
  expect(page.hdr.init_size).toBe(Number(done.kernel.bytes));
  expect(memory.ram(placedInitrd.base + placedInitrd.bytes - 1n, 1)[0]).toBe(0xa5);
});

test('each start has a generation ID of its own, in memory that the guest cannot use, and each restore another one', () => {
  using scope = new Scope();
  const ids = new Set<string>();
  for (let i = 0; i < 2; i++) {
    const memory = memoryOf(scope, 64);
    const idOf = () => Buffer.from(memory.ram(GENERATION_ID, 16)).toString('hex');
    const options = { kernel: parseKernel('k', makeBzImage(code)), cmdline: '', memory, vcpus: 1 };
    const { map } = prepareLinux(options);
    expect(map.find(({ base, bytes }) => base <= GENERATION_ID && GENERATION_ID < base + bytes)?.type).toBe(
      2,
    );
    ids.add(idOf());
    renewGeneration(memory);
    ids.add(idOf());
  }
  expect(ids.size).toBe(4);
});

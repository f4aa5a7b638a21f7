import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const imagePath = fileURLToPath(new URL('guest.elf', import.meta.url));
const buildScript = fileURLToPath(new URL('build.sh', import.meta.url));
const image = readFileSync(imagePath);

// <elf.h>
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PF_X = 1;
const PF_W = 2;

const LOAD_ADDRESS = 0x100000;
const RAM_NEEDED = 2 << 20;

function loadSegments() {
  const first = Number(image.readBigUInt64LE(32));
  const count = image.readUInt16LE(56);
  const headers = Array.from({ length: count }, (_, index) => image.subarray(first + 56 * index));
  return headers.map((header) => ({
    type: header.readUInt32LE(0),
    flags: header.readUInt32LE(4),
    offset: Number(header.readBigUInt64LE(8)),
    vaddr: Number(header.readBigUInt64LE(16)),
    paddr: Number(header.readBigUInt64LE(24)),
    filesz: Number(header.readBigUInt64LE(32)),
    memsz: Number(header.readBigUInt64LE(40)),
  }));
}

/** The compiler's identification in the committed image: `GCC: (Debian 12.2.0-14) 12.2.0`. */
function compilerOfImage(): string {
  return /GCC: [^\0]+/.exec(image.toString('latin1'))?.[0] ?? 'no .comment';
}

function output(command: string, args: string[]): string | undefined {
  try {
    return execFileSync(command, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      maxBuffer: 1 << 26,
    });
  } catch {
    return undefined;
  }
}

test('the image is a static x86-64 executable of load segments only', () => {
  expect(image.subarray(0, 4).toString('latin1')).toBe('\x7fELF');
  expect(image[4]).toBe(ELFCLASS64);
  expect(image[5]).toBe(ELFDATA2LSB);
  expect(image.readUInt16LE(16)).toBe(ET_EXEC);
  expect(image.readUInt16LE(18)).toBe(EM_X86_64);
  expect(loadSegments().every((segment) => segment.type === PT_LOAD)).toBe(true);
});

test('physical addresses equal virtual ones, begin at 1 MiB, fit into the documented RAM and do not overlap', () => {
  let end = LOAD_ADDRESS;
  for (const [index, segment] of loadSegments().entries()) {
    expect(segment.paddr).toBe(segment.vaddr);
    if (index === 0) expect(segment.paddr).toBe(LOAD_ADDRESS);
    expect(segment.paddr).toBeGreaterThanOrEqual(end);
    expect(segment.memsz).toBeGreaterThanOrEqual(segment.filesz);
    expect(segment.offset + segment.filesz).toBeLessThanOrEqual(image.length);
    end = segment.paddr + segment.memsz;
  }
  expect(end).toBeLessThanOrEqual(LOAD_ADDRESS + RAM_NEEDED);
});

test('the entry is inside the one executable segment, which is not writable', () => {
  const entry = Number(image.readBigUInt64LE(24));
  const executable = loadSegments().filter((segment) => segment.flags & PF_X);
  expect(executable).toHaveLength(1);
  const [code] = executable;
  expect(code!.flags & PF_W).toBe(0);
  expect(entry).toBeGreaterThanOrEqual(code!.vaddr);
  expect(entry).toBeLessThan(code!.vaddr + code!.filesz);
});

test('the code uses only instructions that a KVM emulating CPL 0 supports', ({ skip }) => {
  const listing = output('objdump', ['-d', '--no-show-raw-insn', imagePath]);
  if (listing === undefined) return skip('objdump is not installed');
  const names = [
    /^f/, // x87, FXSAVE
    /^(popcnt|lzcnt|tzcnt|movbe|rdtscp|xgetbv|cmpxchg16b|rdpid)/,
    /^(int|into|int1|icebp|syscall|sysenter|vmcall|vmmcall|clac|stac|xsave|xrstor|ldmxcsr|stmxcsr|emms)/,
    /^\(bad\)/,
  ];
  const found: string[] = [];
  let instructions = 0;
  let symbol = '';
  for (const line of listing.split('\n')) {
    symbol = /^[0-9a-f]+ <(.+)>:$/.exec(line)?.[1] ?? symbol;
    const text = /^\s+[0-9a-f]+:\t(?:(?:rep|repz|repnz|lock|data16|cs) )*(.+)$/.exec(line)?.[1];
    if (text === undefined) continue;
    instructions++;
    if (symbol === 'crash_int3' && text.trim() === 'int3') continue; // crash=int3, and nowhere else
    if (names.some((name) => name.test(text)) || /%[xyz]?mm\d/.test(text)) found.push(`${symbol}: ${text}`);
  }
  expect(instructions).toBeGreaterThan(1000);
  expect(found).toEqual([]);
});

test('building the sources with the compiler named in the image reproduces it', ({ skip }) => {
  const version = output('gcc', ['--version'])?.split('\n')[0];
  if (version === undefined) return skip('gcc is not installed');
  const here = version.replace(/^\S+/, 'GCC:');
  if (here !== compilerOfImage()) return skip(`the image was built by ${compilerOfImage()}, here is ${here}`);
  const folder = mkdtempSync(join(tmpdir(), 'guest-'));
  try {
    execFileSync('bash', [buildScript, folder], { env: { ...process.env, CC: 'gcc' }, stdio: 'pipe' });
    const rebuilt = readFileSync(join(folder, 'guest.elf'));
    expect(rebuilt.equals(image), 'guest.elf is not what vmm/guest/build.sh makes of the sources').toBe(true);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

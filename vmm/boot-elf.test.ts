import { expect, test } from 'vitest';
import { GuestImageError, parseElf, readElf } from './boot-elf.js';

/** A minimal image: one segment of `code` at 1 MiB. */
function image(code: Uint8Array, memoryBytes = code.length): Uint8Array {
  const file = new Uint8Array(64 + 56 + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // e_type: executable
  view.setUint16(18, 62, true); // e_machine: x86-64
  view.setBigUint64(24, 0x10_0000n, true); // e_entry
  view.setBigUint64(32, 64n, true); // e_phoff
  view.setUint16(54, 56, true); // e_phentsize
  view.setUint16(56, 1, true); // e_phnum
  view.setUint32(64, 1, true); // p_type: load
  view.setBigUint64(64 + 8, 120n, true); // p_offset
  view.setBigUint64(64 + 24, 0x10_0000n, true); // p_paddr
  view.setBigUint64(64 + 32, BigInt(code.length), true); // p_filesz
  view.setBigUint64(64 + 40, BigInt(memoryBytes), true); // p_memsz
  file.set(code, 120);
  return file;
}

test('parsing an image returns its entry and segments', () => {
  const elf = parseElf('x', image(new Uint8Array([0xf4]), 4096));
  expect(elf.entry).toBe(0x10_0000n);
  expect(elf.segments).toEqual([{ gpa: 0x10_0000n, bytes: new Uint8Array([0xf4]), memoryBytes: 4096n }]);
});

test('a file truncated at any byte is rejected as truncated or not ELF, and never read past its end', () => {
  const file = image(new Uint8Array(32).fill(0x90));
  for (let length = 0; length < file.length; length++) {
    expect(() => parseElf('cut', file.subarray(0, length)), `${length} bytes`).toThrowError(GuestImageError);
  }
  expect(() => parseElf('cut', file.subarray(0, 100))).toThrowError(
    /cut: is cut short: 100 bytes, but its headers speak of 120/,
  );
});

test('other kinds of files are rejected with what they lack', () => {
  expect(() => parseElf('text', Buffer.from('#!/bin/sh'))).toThrowError(/text: is not an ELF64 file/);
  const arm = image(new Uint8Array(1));
  new DataView(arm.buffer).setUint16(18, 183, true);
  expect(() => parseElf('arm', arm)).toThrowError(/not a statically linked x86-64 executable/);
  const empty = image(new Uint8Array(1));
  new DataView(empty.buffer).setUint32(64, 4, true);
  expect(() => parseElf('empty', empty)).toThrowError(/has nothing to load/);
  expect(() => parseElf('odd', image(new Uint8Array(16), 8))).toThrowError(/segment larger than its memory/);
});

test('a missing image is named', () => {
  expect(() => readElf('/no/such/image')).toThrowError('there is no file /no/such/image');
});

import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { linux } from './system.js';

/** A file of two pages, in which byte n is n modulo 251. */
function file(scope: Scope): string {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-system-'));
  scope.defer(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'region');
  writeFileSync(
    path,
    Uint8Array.from({ length: 8192 }, (_, i) => i % 251),
  );
  return path;
}

test('reads and writes are at an offset, and say how many bytes they moved', () => {
  using scope = new Scope();
  const path = file(scope);
  const opened = scope.own(linux.open(path));
  expect(opened.target).toBe(path);
  const data = new Uint8Array(4);
  expect(opened.pread(300, data)).toBe(4);
  expect([...data]).toEqual([49, 50, 51, 52]);
  expect(opened.pread(8190, data)).toBe(2);
  expect(opened.pwrite(300, Uint8Array.of(0xaa, 0xbb))).toBe(2);
  expect([...readFileSync(path).subarray(299, 303)]).toEqual([48, 0xaa, 0xbb, 51]);
});

test('a mapping begins at its offset', () => {
  using scope = new Scope();
  const opened = scope.own(linux.open(file(scope)));
  const mapping = scope.own(opened.mmap(4096, 4096));
  expect(mapping.bytes).toBe(4096);
  expect([...mapping.view.slice(0, 2)]).toEqual([4096 % 251, 4097 % 251]);
});

test('every call on a closed file is EBADF, and one that fails names its offset', () => {
  using scope = new Scope();
  const opened = linux.open(file(scope));
  opened[Symbol.dispose]();
  opened[Symbol.dispose]();
  const data = new Uint8Array(1);
  for (const call of [
    () => opened.pread(0, data),
    () => opened.pwrite(0, data),
    () => opened.mmap(0, 4096),
  ]) {
    expect(call).toThrow(/EBADF/);
  }
  const readOnly = scope.own(linux.adopt(openSync('/dev/null', 'r'), 'inherited'));
  expect(() => readOnly.pwrite(0x20, data)).toThrow(/^pwrite on inherited at 0x20: EBADF/);
  const writeOnly = scope.own(linux.adopt(openSync('/dev/null', 'w'), 'inherited'));
  expect(() => writeOnly.pread(0x30, data)).toThrow(/^pread on inherited at 0x30: EBADF/);
});

test('an inherited descriptor is closed with its file, and on exec', () => {
  using scope = new Scope();
  const fd = openSync(file(scope), 'r+');
  const adopted = linux.adopt(fd, 'inherited');
  expect([adopted.fd, adopted.target]).toEqual([fd, 'inherited']);
  expect(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')).toMatch(/^flags:\t02\d*2$/m); // O_CLOEXEC, O_RDWR
  adopted[Symbol.dispose]();
  expect(() => linux.deviceNumber(fd)).toThrow(/^fstat on fd \d+: EBADF/);
  expect(() => linux.adopt(fd, 'inherited')).toThrow(/^fcntl F_SETFD on inherited: EBADF/);
});

test('a character device has its number', () => {
  for (const [path, number] of [
    ['/dev/null', { major: 1, minor: 3 }],
    ['/dev/zero', { major: 1, minor: 5 }],
  ] as const) {
    using opened = linux.open(path);
    expect(linux.deviceNumber(opened.fd)).toEqual(number);
  }
});

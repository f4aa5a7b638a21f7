import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type CpioEntry, cpio, S_IFDIR, S_IFLNK, S_IFREG } from './cpio.js';

const file = (path: string, text: string): CpioEntry => ({
  path,
  mode: S_IFREG | 0o644,
  data: Buffer.from(text),
});

/** Parses an archive from the format's specification alone. */
function entriesOf(archive: Buffer): { name: string; mode: number; data: Buffer }[] {
  const entries = [];
  for (let at = 0; ; ) {
    expect(at % 4).toBe(0);
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameEnd = at + 110 + field(11);
    const name = archive.toString('utf8', at + 110, nameEnd - 1);
    const dataStart = (nameEnd + 3) & ~3;
    if (name === 'TRAILER!!!') return entries;
    entries.push({ name, mode: field(1), data: archive.subarray(dataStart, dataStart + field(6)) });
    at = (dataStart + field(6) + 3) & ~3;
  }
}

describe('cpio', () => {
  test('puts each folder before its contents, once', () => {
    const names = entriesOf(cpio([file('a/b/one', '1'), file('a/b/two', '2')])).map(({ name }) => name);
    expect(names).toEqual(['a', 'a/b', 'a/b/one', 'a/b/two']);
  });

  test('preserves names, modes and bytes of any files', () => {
    const name = fc.stringMatching(/^[a-zé]{1,12}$/);
    const contents = fc.dictionary(name, fc.uint8Array({ maxLength: 40 }), { maxKeys: 8 });
    fc.assert(
      fc.property(contents, (files) => {
        const entries = Object.entries(files).map(([path, data]) => ({ path, mode: S_IFREG | 0o600, data }));
        const read = entriesOf(cpio(entries));
        expect(read.map(({ name, mode, data }) => [name, mode, [...data]])).toEqual(
          entries.map(({ path, mode, data }) => [path, mode, [...data]]),
        );
      }),
    );
  });

  test.skipIf(spawnSync('cpio', ['--version']).error !== undefined)(
    'is unpacked by cpio(1) (needs cpio)',
    () => {
      const folder = mkdtempSync(join(tmpdir(), 'cpio-'));
      try {
        const link: CpioEntry = { path: 'bin/sh', mode: S_IFLNK | 0o777, data: Buffer.from('busybox') };
        const script: CpioEntry = { path: 'init', mode: S_IFREG | 0o755, data: Buffer.from('#!/bin/sh\n') };
        const input = cpio([{ path: 'proc', mode: S_IFDIR | 0o755 }, link, script]);
        execFileSync('cpio', ['-idm', '--quiet'], { cwd: folder, input });
        expect(readlinkSync(join(folder, 'bin/sh'))).toBe('busybox');
        expect(readFileSync(join(folder, 'init'), 'utf8')).toBe('#!/bin/sh\n');
        expect(statSync(join(folder, 'init')).mode & 0o777).toBe(0o755);
        expect(statSync(join(folder, 'proc')).isDirectory()).toBe(true);
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  );
});

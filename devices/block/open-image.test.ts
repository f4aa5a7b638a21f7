import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import type { DiskImage } from './disk-image.js';
import { Disk } from './testing/disk.js';
import { hasQemuImg } from './testing/qemu-img.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-images-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = (name: string) => join(folder, name);
const BYTES = 1 << 20;
const plain = { format: undefined, isReadOnly: false, overlay: undefined, backing: undefined } as const;

const raw = path('base.raw');
writeFileSync(raw, Buffer.alloc(BYTES, 'base'));

/** Of an overlay that is made here, with one change. */
function changed(name: string, at: number, bytes: readonly number[]): DiskImage {
  const overlay = path(`${name}.qcow2`);
  new Disk({ ...plain, file: raw, overlay })[Symbol.dispose]();
  const fd = openSync(overlay, 'r+');
  writeSync(fd, Uint8Array.from(bytes), 0, bytes.length, at);
  closeSync(fd);
  return { ...plain, file: raw, overlay };
}

function refusal(disk: DiskImage): string {
  try {
    new Disk(disk)[Symbol.dispose]();
  } catch (error) {
    if (error instanceof SysError) return `${error.code}: ${error.hint}`;
    throw error;
  }
  return 'none';
}

const big = (value: bigint) => [...Buffer.from(value.toString(16).padStart(16, '0'), 'hex')];

test.each<readonly [what: string, disk: Partial<DiskImage> & { readonly file: string }, text: string]>([
  [
    'a missing file',
    { file: path('missing') },
    'ENOENT: no file has this name: `qemu-img create` makes an empty disk',
  ],
  ['a folder', { file: folder }, 'EISDIR: a disk is a regular file or a block device'],
  [
    'a folder to read',
    { file: folder, isReadOnly: true },
    'EINVAL: a disk is a regular file or a block device',
  ],
  ['an overlay nowhere', { file: raw, overlay: path('no/o.qcow2') }, 'ENOENT: its folder does not exist'],
])('%s is refused with what to do', (_what, disk, text) => {
  expect(refusal({ ...plain, ...disk })).toBe(text);
});

describe('an image that is not valid is refused with a sentence', () => {
  test.each<readonly [what: string, at: number, bytes: readonly number[], text: string]>([
    ['a version of the future', 7, [4], 'version 4'],
    ['clusters of 2^40 bytes', 23, [40], 'clusters of 2^40 bytes'],
    ['a disk of exabytes', 24, big(1n << 60n), 'an L1 table of 1 entries'],
    ['a disk of no bytes', 24, big(0n), 'a disk of 0 bytes'],
    ['an L1 table behind its end', 40, big(1n << 40n), 'lies beyond its end'],
    ['an L1 table off its alignment', 40, big(0x30200n), 'a table at 0x30200'],
    ['a refcount table of gigabytes', 56, [0, 1, 0, 0], 'a refcount table of 4294967296 bytes'],
    ['encryption', 35, [1], 'encrypted'],
    ['an external data file', 79, [4], 'another file'],
    ['extended L2 entries', 79, [16], 'extended L2 entries'],
    ['an unknown feature', 72, [0x80], 'features 0x8000000000000000'],
    ['the mark of a writer that did not close it', 79, [1], 'qemu-img check -r all'],
    ['internal snapshots', 63, [2], '2 internal snapshots'],
    ['wide refcounts', 99, [6], 'refcounts of 64 bits'],
    ['a header of megabytes', 100, [0, 0x10, 0, 0], 'a header of 1048576 bytes'],
    ['a backing file far away', 8, big(1n << 50n), 'it names a backing file'],
  ])('%s', (what, at, bytes, text) => {
    const answer = refusal(changed(what.replaceAll(/\W/g, '-'), at, bytes));
    expect(answer).toMatch(/^EINVAL: /);
    expect(answer).toContain(text);
  });
});

describe('a table that is not valid', () => {
  test.each<readonly [what: string, at: number, entry: bigint]>([
    ['leads beyond the end', 0x30000, (1n << 63n) | (1n << 40n)],
    ['leads between two clusters', 0x30000, (1n << 63n) | 0x20200n],
  ])('that %s is an I/O error, of reads and of writes', (what, at, entry) => {
    using image = new Disk(changed(what.replaceAll(' ', '-'), at, big(entry)));
    const sector = new Uint8Array(512);
    expect(() => image.read([sector], 0)).toThrow(/EIO\n.*it is not valid: an L2 table/);
    expect(() => image.write([sector], 0)).toThrow(/EIO\n.*it is not valid: an L2 table/);
  });

  test('that leads to itself is only wrong data', () => {
    using image = new Disk(changed('loop', 0x30000, big((1n << 63n) | 0x30000n)));
    expect(() => image.read([new Uint8Array(BYTES)], 0)).not.toThrow(RangeError);
  });
});

describe('an overlay', () => {
  test('has what was written, and the file under it stays as it is', () => {
    const disk = { ...plain, file: raw, overlay: path('kept.qcow2') };
    {
      using image = new Disk(disk);
      image.write([Buffer.alloc(1024, 'x')], 65536 - 512);
      image.writeZeroes(131072, 65536, true);
      image.flush();
    }
    expect(existsSync(`${disk.overlay}.new`)).toBe(false);
    expect(readFileSync(raw).equals(Buffer.alloc(BYTES, 'base'))).toBe(true);
    using image = new Disk(disk);
    const got = Buffer.alloc(BYTES);
    image.read([got], 0);
    const expected = Buffer.alloc(BYTES, 'base').fill('x', 65024, 66048).fill(0, 131072, 196608);
    expect(got.equals(expected)).toBe(true);
  });

  test('is one of the file that it was made for', () => {
    const other = path('other.raw');
    copyFileSync(raw, other);
    const overlay = path('bound.qcow2');
    new Disk({ ...plain, file: raw, overlay })[Symbol.dispose]();
    expect(refusal({ ...plain, file: other, overlay })).toContain(
      `it is an overlay of ${raw}, and not of ${other}`,
    );
    expect(refusal({ ...plain, file: overlay })).toContain(`it is an overlay of ${raw}: give backing=FILE`);
    expect(refusal({ ...plain, file: overlay, backing: other })).toContain(`and not of ${other}`);
    expect(refusal({ ...plain, file: overlay, backing: raw })).toBe('none');
  });

  test('is refused to a second one, and its base to a writer', () => {
    const overlay = path('locked.qcow2');
    using _image = new Disk({ ...plain, file: raw, overlay });
    expect(refusal({ ...plain, file: raw, overlay })).toMatch(/^EBUSY: another machine/);
    expect(refusal({ ...plain, file: raw })).toMatch(/^EBUSY: another machine/);
    expect(refusal({ ...plain, file: raw, overlay: path('second.qcow2') })).toBe('none');
  });

  test('what was discarded and flushed is used again', () => {
    const overlay = path('reused.qcow2');
    using image = new Disk({ ...plain, file: raw, overlay });
    const size = () => readFileSync(overlay).length;
    image.write([new Uint8Array(BYTES)], 0);
    image.flush();
    const before = size();
    for (let i = 0; i < 3; i++) {
      image.discard(0, BYTES);
      image.flush();
      image.write([Buffer.alloc(BYTES, 'y')], 0);
      image.flush();
    }
    expect(size()).toBe(before);
  });
});

test.skipIf(!hasQemuImg)(
  `qemu-img and a disk here refuse each other${hasQemuImg ? '' : ' (skipped: needs qemu-utils)'}`,
  () => {
    using _image = new Disk({ ...plain, file: raw, overlay: path('shared.qcow2') });
    const { status, stderr } = spawnSync('qemu-img', ['check', path('shared.qcow2')], { encoding: 'utf8' });
    expect(status).toBe(1);
    expect(stderr).toContain('lock');
  },
);

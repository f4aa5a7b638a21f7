/** Random operations on qcow2 images whose writer is killed now and then; qemu-img is the judge. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import type { DiskImage } from './disk-image.js';
import { Disk } from './testing/disk.js';
import { hasQemuImg } from './testing/qemu-img.js';

/** Operations in all; the nightly run has more. */
const OPERATIONS = Number(process.env.TSVISOR_DISK_OPERATIONS ?? 400);
const SEED = Number(process.env.TSVISOR_DISK_SEED ?? Math.floor(Math.random() * 2 ** 31));
const SECTORS = 16384;
const PER_ROUND = 80;
/** Of the writer: an operation that is not done has fewer after it that have begun. */
const WINDOW = 8;
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-kills-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Operation = readonly [
  kind: 'write' | 'zero' | 'discard' | 'flush',
  sector: number,
  sectors: number,
  tag: number,
];

/** Numbers below a limit, the same for each seed. */
function numbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** What each sector may read now, and after a kill. A sector's contents are one number, over and over. */
class Model {
  readonly now: Set<number>[];
  readonly later: Set<number>[];

  constructor(tags: readonly number[]) {
    this.now = tags.map((tag) => new Set([tag]));
    this.later = tags.map((tag) => new Set([tag]));
  }

  do([kind, sector, sectors, tag]: Operation): void {
    for (let i = sector; i < sector + sectors; i++) {
      if (kind === 'discard') this.now[i]!.add(0);
      else this.now[i] = new Set([kind === 'write' ? tag : 0]);
      this.later[i]!.add(kind === 'write' ? tag : 0);
    }
    if (kind === 'flush') for (const [i, tags] of this.now.entries()) this.later[i] = new Set(tags);
  }

  /** An operation that was not finished. */
  begin([kind, sector, sectors, tag]: Operation): void {
    for (let i = sector; i < sector + sectors; i++) this.later[i]!.add(kind === 'write' ? tag : 0);
  }

  /** Sectors that read what they must not. The others may only read that from now on. */
  meet(contents: Uint32Array, expected: readonly Set<number>[]): string[] {
    const wrong: string[] = [];
    for (let i = 0; i < SECTORS; i++) {
      const words = contents.subarray(128 * i, 128 * (i + 1));
      const tag = words[0] as number;
      const allowed = expected[i] as Set<number>;
      if (!allowed.has(tag) || words.some((word) => word !== tag))
        wrong.push(`sector ${i}: ${[...new Set(words)]} instead of ${[...allowed]}`);
      this.now[i] = new Set([tag]);
      this.later[i] = new Set([tag]);
    }
    return wrong;
  }
}

function operations(random: (below: number) => number, firstTag: number): Operation[] {
  return Array.from({ length: PER_ROUND }, (_, i) => {
    const kind = (['write', 'write', 'write', 'write', 'zero', 'discard', 'flush'] as const)[random(7)]!;
    if (kind === 'flush') return [kind, 0, 0, 0];
    const most = random(4) === 0 ? 1024 : 64;
    const sector = random(SECTORS - 1);
    const sectors = Math.min(1 + random(most), SECTORS - sector);
    return [kind, sector, sectors, kind === 'write' ? firstTag + i : random(2)];
  });
}

/** How many operations a writer said were done, and whether it has closed the disk. */
interface Writing {
  readonly done: number;
  readonly isClosed: boolean;
}

/** Runs operations in a process of their own, and kills it after some. */
async function runAndKill(disk: DiskImage, list: readonly Operation[], killAfter: number): Promise<Writing> {
  const file = join(folder, 'operations.json');
  writeFileSync(file, JSON.stringify(list));
  const program = fileURLToPath(new URL('./testing/writer.mjs', import.meta.url));
  const child = spawn(process.execPath, [program, JSON.stringify(disk), file], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let done = '';
  let errors = '';
  child.stderr.on('data', (text) => {
    errors += String(text);
  });
  child.stdout.on('data', (text) => {
    done += String(text);
    if (done.length >= killAfter) child.kill('SIGKILL');
  });
  await once(child, 'close');
  expect(errors).toBe('');
  const isClosed = done.endsWith('!');
  if (!isClosed) expect(child.signalCode).toBe('SIGKILL');
  return { done: done.replace('!', '').length, isClosed };
}

function readAll(disk: DiskImage): Uint32Array {
  using image = new Disk({ ...disk, isReadOnly: disk.overlay === undefined });
  const contents = new Uint8Array(SECTORS * 512);
  image.read([contents], 0);
  return new Uint32Array(contents.buffer);
}

const qemuImg = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  return { status, text: stdout + stderr };
};

/** What the disk is before the first operation. */
const original = Array.from({ length: SECTORS }, (_, i) => 1_000_000_000 + i);

function rawFile(name: string, tags: readonly number[]): string {
  const path = join(folder, name);
  const words = new Uint32Array(SECTORS * 128);
  for (const [i, tag] of tags.entries()) words.fill(tag, 128 * i, 128 * (i + 1));
  writeFileSync(path, new Uint8Array(words.buffer));
  return path;
}

const plain = { format: undefined, isReadOnly: false, overlay: undefined, backing: undefined } as const;

const images: readonly (readonly [name: string, tags: readonly number[], make: () => DiskImage])[] = [
  [
    'an overlay that is made here, of a raw file',
    original,
    () => ({ ...plain, file: rawFile('base.raw', original), overlay: join(folder, 'overlay.qcow2') }),
  ],
  [
    'a compressed image with clusters of 4 KiB',
    original,
    () => {
      const file = join(folder, 'compressed.qcow2');
      const raw = rawFile('source.raw', original);
      qemuImg('convert', '-c', '-O', 'qcow2', '-o', 'cluster_size=4096', raw, file);
      return { ...plain, file };
    },
  ],
  [
    'an empty image of version 2',
    original.map(() => 0),
    () => {
      const file = join(folder, 'old.qcow2');
      qemuImg('create', '-f', 'qcow2', '-o', 'compat=0.10', file, String(SECTORS * 512));
      return { ...plain, file };
    },
  ],
];

test.skipIf(!hasQemuImg).each(images)(
  `${OPERATIONS} operations with kills leave %s whole (seed ${SEED})${hasQemuImg ? '' : ' (skipped: needs qemu-utils)'}`,
  { timeout: 60_000 + 300 * OPERATIONS },
  async (_name, tags, make) => {
    const disk = make();
    const top = disk.overlay ?? disk.file;
    const random = numbers(SEED);
    const model = new Model(tags);
    if (disk.overlay !== undefined) expect(model.meet(readAll(disk), model.now)).toEqual([]);
    for (let begun = 0; begun < OPERATIONS; begun += PER_ROUND) {
      const list = operations(random, begun + 1);
      const { done, isClosed } = await runAndKill(disk, list, 1 + random(PER_ROUND + 20));
      for (const operation of list.slice(0, done)) model.do(operation);
      for (const operation of list.slice(done, done + WINDOW)) model.begin(operation);
      const check = qemuImg('check', '-f', 'qcow2', top);
      // 3 is leaked clusters only.
      expect([0, 3], `after ${begun + done} operations: ${check.text}`).toContain(check.status);
      expect(model.meet(readAll(disk), isClosed ? model.now : model.later)).toEqual([]);
    }
    const now = model.now.map((allowed) => [...allowed][0] as number);
    const compared = qemuImg('compare', '-f', 'raw', '-F', 'qcow2', rawFile('model.raw', now), top);
    expect(compared.text).toContain('Images are identical.');
  },
);

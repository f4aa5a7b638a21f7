/** Operations on a qcow2 image that go on at the same time, and are done in any order. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import type { BlockImage } from './image.js';
import { openImage } from './open-image.js';
import { HeldIo } from './testing/held-io.js';
import { hasQemuImg } from './testing/qemu-img.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-concurrent-'));
afterAll(() => rmSync(folder, { recursive: true }));
const CLUSTER = 65536;
const BYTES = 8 * CLUSTER;
const BASE = 0x11;

const base = join(folder, 'base.raw');
writeFileSync(base, Buffer.alloc(BYTES, BASE));
const plain = { format: undefined, isReadOnly: false, backing: undefined } as const;
let overlays = 0;

interface Opened extends Disposable {
  readonly io: HeldIo;
  readonly image: BlockImage;
  readonly path: string;
  /** Does all that is held, and what follows from it. */
  settle(): void;
  /** All of the disk. */
  contents(): Buffer;
  /** What a flush frees is in the file with the next one. */
  flushAll(): void;
}

function overlay(choose?: (count: number) => number): Opened {
  using scope = new Scope();
  const path = join(folder, `${++overlays}.qcow2`);
  const io = scope.own(new HeldIo(choose));
  const image = scope.own(openImage({ ...plain, file: base, overlay: path }, io));
  const owned = scope.move();
  const settle = () => {
    while (io.busy > 0) io.wait();
  };
  return {
    ...{ io, image, path, settle },
    contents() {
      const all = Buffer.alloc(BYTES);
      image.read([all], 0, succeed);
      settle();
      return all;
    },
    flushAll() {
      for (let i = 0; i < 3; i++) {
        image.flush(succeed);
        settle();
      }
    },
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

const succeed = (error?: Error): void => {
  if (error !== undefined) throw error;
};

const check = (path: string): string =>
  hasQemuImg ? spawnSync('qemu-img', ['check', '-U', path], { encoding: 'utf8' }).stdout : 'No errors';

/** Whether an operation is done. */
function begun(begin: (done: () => void) => void): () => boolean {
  let isDone = false;
  begin(() => {
    isDone = true;
  });
  return () => isDone;
}

/** An image whose first two clusters are its own. */
function written(): Opened {
  const opened = overlay();
  opened.image.write([Buffer.alloc(2 * CLUSTER, 1)], 0, succeed);
  opened.settle();
  opened.image.flush(succeed);
  opened.settle();
  return opened;
}

describe('while a flush is not done', () => {
  test('reads and writes in place are, and what changes tables waits for it', () => {
    using opened = written();
    const { io, image } = opened;
    image.write([Buffer.alloc(CLUSTER, 2)], 2 * CLUSTER, succeed);
    opened.settle();
    const flush = begun((done) => image.flush(done));
    expect(io.held).toEqual(['sync']);

    const got = Buffer.alloc(512);
    const read = begun((done) => image.read([got], 512, done));
    io.release('read');
    const inPlace = begun((done) => image.write([Buffer.alloc(512, 3)], CLUSTER, done));
    io.release('write');
    expect([read(), inPlace(), flush(), got[0]]).toEqual([true, true, false, 1]);

    const anew = begun((done) => image.write([Buffer.alloc(CLUSTER, 4)], 3 * CLUSTER, done));
    const discard = begun((done) => image.discard(0, CLUSTER, done));
    expect([io.held, anew(), discard()]).toEqual([['sync'], false, false]);
    opened.settle();
    expect([flush(), anew(), discard()]).toEqual([true, true, true]);
    expect(
      opened
        .contents()
        .subarray(3 * CLUSTER, 4 * CLUSTER)
        .equals(Buffer.alloc(CLUSTER, 4)),
    ).toBe(true);
  });

  test('another flush of data alone needs no turn', () => {
    using opened = written();
    const { io, image } = opened;
    const flushes = [begun((done) => image.flush(done)), begun((done) => image.flush(done))];
    expect(io.held).toEqual(['sync', 'sync']);
    opened.settle();
    expect(flushes.map((isDone) => isDone())).toEqual([true, true]);
  });
});

test('a cluster that is written is not used for something else when it is discarded meanwhile', () => {
  using opened = written();
  const { io, image } = opened;
  const late = begun((done) => image.write([Buffer.alloc(CLUSTER, 0xee)], 0, done));
  image.discard(0, CLUSTER, succeed);
  image.flush(succeed);
  while (io.held.includes('sync')) io.release('sync');
  // These would take its place in the file.
  for (let i = 3; i < 6; i++) image.write([Buffer.alloc(CLUSTER, i)], i * CLUSTER, succeed);
  for (let i = 3; i < 6; i++) {
    const at = io.held.lastIndexOf('write');
    expect(at).toBeGreaterThan(0);
    io.releaseAt(at);
  }
  expect(late()).toBe(false);
  opened.settle();
  const contents = opened.contents();
  for (let i = 3; i < 6; i++)
    expect(contents.subarray(i * CLUSTER, (i + 1) * CLUSTER).every((byte) => byte === i)).toBe(true);
  opened.flushAll();
  expect(check(opened.path)).toContain('No errors');
});

test('an allocation that fails gives its cluster back, and the next one waits for neither', () => {
  using opened = overlay();
  const { io, image } = opened;
  let error: Error | undefined;
  image.write([Buffer.alloc(512, 1)], 0, (result) => {
    error = result;
  });
  io.fail('read', -5);
  const next = begun((done) => image.write([Buffer.alloc(CLUSTER, 2)], CLUSTER, done));
  opened.settle();
  expect([String(error), next()]).toEqual([expect.stringContaining('preadv'), true]);
  opened.flushAll();
  expect(check(opened.path)).toContain('No errors');
  expect(opened.contents().subarray(0, CLUSTER).equals(Buffer.alloc(CLUSTER, BASE))).toBe(true);
});

const SECTOR = 512;
const UNIT = 16 * SECTOR;
const UNITS = BYTES / UNIT;
const operation = fc.record({
  kind: fc.constantFrom('write', 'write', 'write', 'zero', 'free', 'discard', 'flush', 'read'),
  unit: fc.nat(UNITS - 1),
  units: fc.integer({ min: 1, max: 24 }),
  /** How much of what is held is done before. */
  settled: fc.nat(3),
});

test('whatever is done in whatever order: all ranges read what was written last, and qemu-img finds no error', () => {
  fc.assert(
    fc.property(
      fc.array(operation, { minLength: 1, maxLength: 40 }),
      fc.infiniteStream(fc.nat()),
      (list, order) => {
        using opened = overlay((count) => (order.next().value as number) % count);
        const { io, image, path } = opened;
        const model = new Uint8Array(UNITS).fill(BASE);
        /** Units that may also read 0, as they were discarded. */
        const discarded = new Uint8Array(UNITS);
        const set = (value: number, from: number, to: number) => {
          model.fill(value, from, to);
          discarded.fill(0, from, to);
        };
        const isRight = (i: number, value: unknown, model: Uint8Array, discarded: Uint8Array) =>
          value === model[i] || (discarded[i] === 1 && value === 0);
        /** Units that an operation has now: others do not touch them. */
        const taken = new Uint8Array(UNITS);
        let tag = 0x20;
        for (const { kind, unit, units, settled } of list) {
          for (let i = 0; i < settled; i++) io.wait();
          if (kind === 'flush') {
            image.flush(succeed);
            continue;
          }
          const end = Math.min(unit + units, UNITS);
          while (taken.subarray(unit, end).includes(1)) io.wait();
          taken.fill(1, unit, end);
          const [offset, bytes] = [unit * UNIT, (end - unit) * UNIT];
          const free = (error?: Error): void => {
            succeed(error);
            taken.fill(0, unit, end);
          };
          if (kind === 'write') {
            tag = 0x20 + ((tag + 1) & 0x7f);
            set(tag, unit, end);
            image.write([Buffer.alloc(SECTOR, tag), Buffer.alloc(bytes - SECTOR, tag)], offset, free);
          } else if (kind === 'zero' || kind === 'free') {
            set(0, unit, end);
            image.writeZeroes(offset, bytes, kind === 'free', free);
          } else if (kind === 'discard') {
            const perCluster = CLUSTER / UNIT;
            for (let at = Math.ceil(unit / perCluster) * perCluster; at + perCluster <= end; at += perCluster)
              discarded.fill(1, at, at + perCluster);
            image.discard(offset, bytes, free);
          } else {
            const got = Buffer.alloc(bytes);
            const expected = [model.slice(unit, end), discarded.slice(unit, end)] as const;
            image.read([got], offset, (error) => {
              for (let i = 0; i < end - unit; i++) expect(isRight(i, got[i * UNIT], ...expected)).toBe(true);
              free(error);
            });
          }
        }
        opened.settle();
        const contents = opened.contents();
        for (const [i, value] of model.entries())
          if (
            !contents.subarray(i * UNIT, (i + 1) * UNIT).every((byte) => isRight(i, byte, model, discarded))
          )
            throw new Error(`unit ${i} has ${contents[i * UNIT]} in place of ${value}`);
        opened.flushAll();
        expect(check(path)).toContain('No errors');
        rmSync(path);
      },
    ),
    { numRuns: 60 },
  );
}, 60_000);

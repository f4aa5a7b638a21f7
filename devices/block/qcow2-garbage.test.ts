/** An image is untrusted: whatever its bytes are, its user gets errors of the host or of the image, and soon. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import { Disk } from './testing/disk.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-garbage-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = (name: string) => join(folder, name);
const DISK_BYTES = 4 << 20;
const CLUSTER = 65536;
/** Sparse: a wrong refcount table may say that the first free cluster is far away. */
const MOST_BYTES = 2 ** 50;

const base = path('base.raw');
writeFileSync(base, Buffer.alloc(DISK_BYTES, 'base'));
const plain = { format: undefined, isReadOnly: false, overlay: undefined, backing: undefined } as const;
const good = path('good.qcow2');
{
  using image = new Disk({ ...plain, file: base, overlay: good });
  for (let at = 0; at < DISK_BYTES; at += 3 * CLUSTER) image.write([Buffer.alloc(CLUSTER, 7)], at);
  image.discard(6 * CLUSTER, CLUSTER);
  image.flush();
}
const bytes = readFileSync(good);

/** Where what leads to other places is: header, refcount table and block, L1 and L2 tables; and anything anywhere. */
const place = fc.oneof(
  fc.nat(112),
  fc
    .nat(Math.min(bytes.length, 6 * CLUSTER) / CLUSTER - 1)
    .chain((cluster) => fc.nat(64).map((at) => cluster * CLUSTER + at)),
  fc.nat(bytes.length - 1),
);
const changes = fc.array(fc.tuple(place, fc.nat(255)), { minLength: 1, maxLength: 6 });

/** Does it, unless the image or the host refuses. */
function attempt(act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}

test('an overlay with any bytes changed is refused, or fails with errors that say so', () => {
  fc.assert(
    fc.property(changes, (changed) => {
      const overlay = path('changed.qcow2');
      copyFileSync(good, overlay);
      const copy = Buffer.from(bytes);
      for (const [at, value] of changed) copy[at] = value;
      writeFileSync(overlay, copy);
      attempt(() => {
        using image = new Disk({ ...plain, file: base, overlay });
        const memory = [new Uint8Array(CLUSTER)];
        for (let at = 0; at < DISK_BYTES; at += CLUSTER) attempt(() => image.read(memory, at));
        for (let at = 0; at < DISK_BYTES; at += 2 * CLUSTER) attempt(() => image.write(memory, at));
        attempt(() => image.discard(3 * CLUSTER, 5 * CLUSTER));
        attempt(() => image.writeZeroes(9 * CLUSTER + 512, 2 * CLUSTER, true));
        attempt(() => image.flush());
      });
      expect(statSync(overlay).size).toBeLessThan(MOST_BYTES);
    }),
    { numRuns: 400 },
  );
});

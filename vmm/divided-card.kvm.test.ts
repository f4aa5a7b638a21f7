/** Two guests at once, each in a machine of its own, on parts of one card that another thread serves. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PNG } from 'pngjs';
import { expect, test } from 'vitest';
import { DeviceServer } from './device-server.js';
import { guestPicture } from './guest-picture.js';
import { runMachine } from './testing/machines.js';

const SIZES = [
  { width: 640, height: 400 },
  { width: 800, height: 600 },
] as const;

test('two guests draw on parts of one card at the same time, and each has its own picture, pixel for pixel', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'divided-'));
  const [first, second] = ['one', 'two'].map((name) => join(folder, name)) as [string, string];
  try {
    let ready = () => {};
    const isReady = new Promise<void>((resolve) => {
      ready = resolve;
    });
    await using server = DeviceServer.start(
      {
        ...{ address: 'vgpu-half', path: first, vgpuCards: [{ name: 'card', memory: '64M' }] },
        beside: [{ address: 'vgpu-half', path: second }],
      },
      { ready: (_text, path) => path === second && ready() },
    );
    await Promise.race([isReady, server.finished]);
    const runs = await Promise.all(
      SIZES.map(({ width, height }, i) =>
        runMachine({
          devices: [{ address: `vfio-user:${i === 0 ? first : second}` }],
          cmdline: `frames=20 xres=${width} yres=${height}`,
        }),
      ),
    );
    for (const [i, { width, height }] of SIZES.entries()) {
      expect(runs[i]?.report.outcome, runs[i]?.serial).toEqual({ kind: 'verdict', status: 0 });
      const picture = PNG.sync.read(Buffer.from(await server.screenshot(i)));
      expect([picture.width, picture.height]).toEqual([width, height]);
      expect(Buffer.compare(picture.data, guestPicture(width, height).rgba)).toBe(0);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

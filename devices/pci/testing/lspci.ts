import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Whether lspci is installed: an independent decoder of configuration space. */
export const hasLspci = spawnSync('lspci', ['--version']).error === undefined;

/** Decodes a function's configuration space with `lspci -nvv`. @throws Error if lspci fails */
export function lspci(space: Uint8Array): string {
  const lines = Array.from({ length: space.length / 16 }, (_, i) => {
    const bytes = Array.from(space.subarray(16 * i, 16 * i + 16), (byte) =>
      byte.toString(16).padStart(2, '0'),
    );
    return `${(16 * i).toString(16).padStart(2, '0')}: ${bytes.join(' ')}`;
  });
  const folder = mkdtempSync(join(tmpdir(), 'lspci-'));
  try {
    writeFileSync(join(folder, 'dump'), `00:03.0 device\n${lines.join('\n')}\n`);
    const words = ['-nvv', '-F', join(folder, 'dump')];
    const { stdout, stderr, status } = spawnSync('lspci', words, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`lspci: ${stderr}`);
    return stdout;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

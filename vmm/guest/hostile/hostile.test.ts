import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const image = readFileSync(fileURLToPath(new URL('hostile.elf', import.meta.url)));
const buildScript = fileURLToPath(new URL('../build.sh', import.meta.url));

test('the committed image is what build.sh makes of the source with the same compiler', ({ skip }) => {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-hostile-'));
  const compilerOf = (elf: Buffer) => /GCC: [^\0]+/.exec(elf.toString('latin1'))?.[0];
  try {
    try {
      execFileSync('bash', [buildScript, folder], { stdio: 'ignore' });
    } catch {
      return skip('it cannot be built here: gcc is not installed');
    }
    const rebuilt = readFileSync(join(folder, 'hostile.elf'));
    if (compilerOf(rebuilt) !== compilerOf(image)) return skip('another compiler is installed');
    expect(rebuilt.equals(image)).toBe(true);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

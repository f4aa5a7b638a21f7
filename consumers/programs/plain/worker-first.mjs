// Imports each entry in a worker before the main thread imports any: it throws, and the process continues.
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';

const entries = process.argv.slice(2);
const folder = mkdtempSync(join(import.meta.dirname, 'worker-'));
for (const [i, entry] of entries.entries()) {
  // A static import: no code of this program runs before it.
  const program = join(folder, `${i}.mjs`);
  writeFileSync(program, `import '${entry}';\n`);
  const worker = new Worker(program);
  let message = 'it was not refused';
  worker.on('error', (error) => {
    message = error.message;
  });
  const code = await new Promise((resolve) => worker.on('exit', resolve));
  if (code !== 1 || !/import the package in the main thread before/.test(message)) {
    throw new Error(`${entry}: the worker ended with ${code}: ${message}`);
  }
}
for (const entry of entries) await import(entry); // the main thread still works
console.log(`${entries.length} workers refused`);

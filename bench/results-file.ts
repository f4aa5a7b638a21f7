/** What `--json` writes. */
import { writeFileSync } from 'node:fs';
import type { HostDescription } from './host-description.js';
import type { Figure } from './report.js';

export interface Results {
  readonly host: HostDescription;
  readonly figures: readonly Figure[];
}

/** More digits would be noise. */
const rounded = (_key: string, value: unknown): unknown =>
  typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value;

/** @param file a path; `-` is stdout */
export function writeResults(file: string, results: Results): void {
  const text = `${JSON.stringify(results, rounded, 2)}\n`;
  if (file === '-') process.stdout.write(text);
  else writeFileSync(file, text);
}

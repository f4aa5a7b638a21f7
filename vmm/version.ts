import { readFileSync } from 'node:fs';
import { workerUrl } from '../sys/worker-url.js';

/** This package's version. */
export function version(): string {
  const path = workerUrl('../package.json');
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
}

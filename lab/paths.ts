import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

function isProject(folder: string): boolean {
  const file = join(folder, 'package.json');
  return existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { name?: string }).name === 'tsvisor';
}

function findProject(): string {
  for (let folder = import.meta.dirname; folder !== '/'; folder = dirname(folder)) {
    if (isProject(folder)) return folder;
  }
  return process.cwd();
}

/** The folder of package.json; L1 mounts it at the same path. */
export const projectFolder = findProject();

/** The lab's own files that are not compiled: scripts and README. */
export const labFolder = join(projectFolder, 'lab');

/** Everything fetched or built; may be deleted whenever no lab runs. */
export const cacheFolder = resolve(process.env.TSVISOR_LAB_CACHE ?? join(labFolder, '.cache'));

/** Folders in which the packed package is installed as a dependency. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runWell } from './run.js';

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
export const PROGRAMS = join(PROJECT, 'consumers/programs');

/** The last release of the previous major version, and the current one. */
export const TYPESCRIPTS = ['5.9.3', '6.0.3'];

export interface Site {
  readonly files: readonly string[];
  /** Contains the package, vitest and TypeScript. */
  readonly app: string;
  readonly tsvisor: string;
  /** A second copy that shares the first one's ffi-rs. */
  readonly sharing: string;
  /** A copy with an ffi-rs of its own. */
  readonly separate: string;
  /** A folder with a plug-in and no package at all; in `withCopy`, the same beside the separate copy. */
  readonly bare: string;
  readonly withCopy: string;
  /** For a client of the API; not made yet. */
  readonly client: string;
  /** A folder with the optional packages, too. */
  readonly doors: string;
}

interface Versions {
  readonly devDependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(path, JSON.stringify(value, null, 2));
}

/** Makes a folder with a package.json, and installs packages there. */
export async function install(folder: string, packages: readonly string[]): Promise<void> {
  mkdirSync(folder, { recursive: true });
  writeJson(join(folder, 'package.json'), { private: true, type: 'module' });
  await runWell('npm', ['install', '--no-package-lock', '--prefer-offline', ...packages], {
    cwd: folder,
    timeoutMs: 300_000,
  });
}

/** Packs the built package and installs it. Disposing removes all folders. */
export async function createSite(): Promise<Site & Disposable> {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'tsvisor-consumers-')));
  const packed = await runWell('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', root], {
    cwd: PROJECT,
  });
  const [{ filename, files }] = JSON.parse(packed.slice(packed.indexOf('['))) as [
    { filename: string; files: { path: string }[] },
  ];
  const tarball = join(root, filename);
  const { devDependencies, peerDependencies } = JSON.parse(
    readFileSync(join(PROJECT, 'package.json'), 'utf8'),
  ) as Versions;
  const pinned = ['@types/node', 'vitest'].map((name) => `${name}@${devDependencies[name]}`);
  const compilers = TYPESCRIPTS.map((version) => `typescript-${version}@npm:typescript@${version}`);
  const [app, other] = [join(root, 'app'), join(root, 'other')];
  await install(app, [tarball, ...pinned, ...compilers]);
  await install(other, [tarball]);
  const site = {
    files: files.map(({ path }) => path),
    app,
    tsvisor: join(app, 'node_modules/tsvisor'),
    sharing: join(app, 'copy/node_modules/tsvisor'),
    separate: join(other, 'node_modules/tsvisor'),
    bare: join(root, 'bare'),
    withCopy: join(other, 'plugin'),
    client: join(root, 'client'),
    doors: join(root, 'doors'),
  };
  await install(site.doors, [tarball, `koffi@${peerDependencies.koffi}`]);
  cpSync(join(PROGRAMS, 'plain'), site.doors, { recursive: true });
  cpSync(site.tsvisor, site.sharing, { recursive: true });
  for (const kind of ['plain', 'vitest']) cpSync(join(PROGRAMS, kind), app, { recursive: true });
  cpSync(join(PROGRAMS, 'types'), join(app, 'types'), { recursive: true });
  for (const folder of [site.bare, site.withCopy])
    cpSync(join(PROGRAMS, 'plugin'), folder, { recursive: true });
  return { ...site, [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }) };
}

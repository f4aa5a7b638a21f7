/**
 * Few large files instead of hundreds of small ones: Node spends most of a machine's start on finding modules. Programs,
 * threads, event tasks and public entries are built in one go, so that they share one copy of each module; what several
 * of them use lies in dist/chunks, which is as deep as a folder of the project.
 */
import { readdirSync } from 'node:fs';
import { defineConfig } from 'rolldown';

const isEntry = (file) =>
  /\/index\.ts$|-(task|plugin)\.ts$|^(vmm|vfio)\/.*-thread\.ts$|^examples\/[\w-]+\.ts$/.test(file) ||
  ['sys/event-loop.ts', 'sys/resolve-hook.ts', 'bench/main.ts'].includes(file);
const entries = ['sys', 'kvm', 'vfio', 'devices', 'vmm', 'examples', 'bench']
  .flatMap((folder) => readdirSync(folder, { recursive: true }).map((file) => `${folder}/${file}`))
  .filter(isEntry)
  .concat('consumers/main.ts', 'faults/main.ts', 'lab/main.ts', 'mutants/main.ts'); // their folders hold programs of others

/** Packages that go into the files: loading them one module at a time is what takes long. All others stay outside. */
const bundled = /^(zod|tsyringe|tslib|reflect-metadata|@oxc-project\/runtime)(\/|$)/;

const programs = defineConfig({
  input: {
    ...Object.fromEntries(entries.map((file) => [file.slice(0, -'.ts'.length), file])),
    'vmm/cli': 'vmm/bin.ts', // the package's program, which loads vmm/cli.ts as a chunk
  },
  platform: 'node',
  external: (id) => /^[^./]/.test(id) && !bundled.test(id),
  tsconfig: 'tsconfig.json',
  transform: { target: 'es2022' },
  logLevel: 'warn',
  output: {
    dir: 'dist',
    format: 'esm',
    sourcemap: true,
    entryFileNames: '[name].js',
    chunkFileNames: 'chunks/[name].js',
  },
});

/** The page of --view, for browsers. */
const page = defineConfig({
  input: 'vmm/display/page/main.tsx',
  platform: 'browser',
  tsconfig: 'vmm/display/page/tsconfig.json',
  transform: { target: 'es2022' },
  logLevel: 'warn',
  output: { file: 'dist/vmm/display/page.js', format: 'iife', minify: true },
});

export default [programs, page];

/**
 * Few large files instead of hundreds of small ones: Node spends most of a machine's start on finding modules. Programs,
 * threads, event tasks and public entries are built in one go, so that they share one copy of each module; what several
 * of them use lies in dist/chunks, which is as deep as a folder of the project.
 */
import { readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { defineConfig } from 'rolldown';

const isEntry = (file) =>
  /\/index\.ts$|-(task|plugin)\.ts$|^devices\/[\w-]+\/driver\.ts$|^(vmm|vfio)\/.*-thread\.ts$|^examples\/[\w-]+\.ts$/.test(
    file,
  ) || ['sys/event-loop.ts', 'sys/resolve-hook.ts', 'bench/main.ts'].includes(file);
const entries = ['sys', 'kvm', 'vfio', 'devices', 'vmm', 'examples', 'bench']
  .flatMap((folder) => readdirSync(folder, { recursive: true }).map((file) => `${folder}/${file}`))
  .filter(isEntry)
  .concat('consumers/main.ts', 'faults/main.ts', 'lab/main.ts', 'mutants/main.ts'); // their folders hold programs of others

const AHEAD = 'sys/thread-ahead.ts'; // what the program loads first, and its threads have, too
const EVENTS = [
  'sys/event-loop.ts',
  'sys/ioctl-task.ts',
  'devices/virtio-net/queue-task.ts',
  'vmm/assign/signal-task.ts',
];
const MAIN = 'vmm/cli-run.ts';
const MACHINE = 'vmm/machine-thread.ts';
const VIRTIO_NET = 'devices/virtio-net/driver.ts';
const DRIVERS = entries.filter((file) => file.endsWith('/driver.ts') && file !== VIRTIO_NET);
const PROVIDERS = ['vfio/host/index.ts', 'vfio/user/index.ts'];
const ASSIGN = 'vmm/assign/index.ts';

/**
 * The files that the threads of `tsvisor run` load, and for which programs: a file of its own costs a module, and each thread
 * that loads it, up to a millisecond, so they are few; but other programs load them too, and hardly more than they need. A
 * module is in the first file here that has it for one of its programs (`least` of them), so that a file imports only those
 * before it.
 */
const PARTS = [
  { file: 'first', of: [AHEAD, 'vmm/cli.ts'], and: [...EVENTS, MACHINE] }, // without ffi-rs, which `--help` does not need
  { file: 'words', of: ['vmm/cli.ts'] }, // the same
  { file: 'threads', of: EVENTS, and: [MAIN, MACHINE, 'vmm/vcpu-thread.ts'] },
  { file: 'net', of: EVENTS, and: [VIRTIO_NET] },
  { file: 'queues', of: EVENTS },
  { file: 'shared', of: [MACHINE, ASSIGN], and: [MAIN, 'vmm/index.ts'] },
  { file: 'kvm', of: ['kvm/index.ts'], and: [MACHINE] },
  { file: 'vfio', of: ['vfio/index.ts'], and: [MACHINE, VIRTIO_NET] },
  { file: 'devices', of: [ASSIGN], and: [MACHINE] },
  { file: 'drivers', of: [VIRTIO_NET], and: DRIVERS },
  { file: 'virtio-net', of: [VIRTIO_NET] },
  { file: 'providers', of: PROVIDERS, least: 2 },
  { file: 'host', of: ['vfio/host/index.ts'] },
  { file: 'vfio-user', of: ['vfio/user/index.ts'] },
  { file: 'other-drivers', of: DRIVERS, least: 2 },
  { file: 'machine', of: [MACHINE] },
  { file: 'main', of: [MAIN] },
];

/** The modules that a program imports, however indirectly; not itself, as nothing else may run it, unless others import it. */
const imported = new Map();
function importsOf(program, build) {
  const known = imported.get(program);
  if (known !== undefined) return known;
  const found = new Set(program === AHEAD ? [resolve(AHEAD)] : []);
  const visit = (id) => {
    for (const next of build.getModuleInfo(id)?.importedIds ?? []) {
      if (found.has(next)) continue;
      found.add(next);
      visit(next);
    }
  };
  visit(resolve(program));
  imported.set(program, found);
  return found;
}

const programsOfParts = new Set(PARTS.flatMap(({ of }) => of.map((program) => resolve(program))));
programsOfParts.delete(resolve(AHEAD));
/** What zod's core imports, and a start does not use. */
const UNUSED = /\/zod\/v4\/core\/(to-json-schema|json-schema-processors)\.js$/;
const groups = PARTS.map(({ file, of, and, least = 1 }, index) => ({
  debugName: file,
  priority: PARTS.length - index,
  name(id, build) {
    const isUsedBy = (program) => importsOf(program, build).has(id);
    const belongs =
      !programsOfParts.has(id) &&
      !UNUSED.test(id) &&
      of.filter(isUsedBy).length >= least &&
      (and ?? of).some(isUsedBy);
    return belongs ? file : null;
  },
}));

/** Packages that go into the files: loading them one module at a time is what takes long. All others stay outside. */
const bundled = /^(zod|tsyringe|tslib|reflect-metadata|@oxc-project\/runtime)(\/|$)/;

const NODE_IMPORT = /^import (?:\* as )?([\w$]+)?(?:, )?(?:\{([^}]*)\})? from ("node:[\w/]+");$/gm;

/**
 * Node's own modules without an import: for one, each thread that runs it reads all that the module exports, and Node loads what
 * lies behind some of it (the promises of fs, the webcrypto of crypto).
 */
const nodeModules = {
  name: 'node-modules',
  renderChunk: (code) => ({
    code: code.replace(NODE_IMPORT, (_line, all, some, id) =>
      [all, some && `{${some.replaceAll(' as ', ': ')}}`]
        .filter(Boolean)
        .map((names) => `const ${names} = process.getBuiltinModule(${id});`)
        .join(' '),
    ),
    map: null, // the lines stay where they are
  }),
};

const programs = defineConfig({
  input: {
    ...Object.fromEntries(entries.map((file) => [file.slice(0, -'.ts'.length), file])),
    'vmm/cli': 'vmm/bin.ts', // the package's program, which loads vmm/cli.ts as a chunk
  },
  platform: 'node',
  external: (id) => /^[^./]/.test(id) && !bundled.test(id),
  tsconfig: 'tsconfig.json',
  transform: { target: 'es2022' },
  plugins: [nodeModules],
  resolve: { mainFields: ['es2015', 'module', 'main'] }, // tsyringe's modules, of which a half is used
  logLevel: 'warn',
  output: {
    dir: 'dist',
    format: 'esm',
    sourcemap: true,
    entryFileNames: '[name].js',
    chunkFileNames: 'chunks/[name].js',
    codeSplitting: { groups },
    // V8 reads every byte of a file before it runs it, and twice as many bytes if one character is not of Latin-1.
    comments: { legal: true, annotation: false, jsdoc: false },
    minify: { compress: false, mangle: false, codegen: { removeWhitespace: false, asciiOnly: true } },
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

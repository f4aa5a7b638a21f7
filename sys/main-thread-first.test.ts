import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

const entry = new URL('../dist/kvm/index.js', import.meta.url).href;

/** Runs `main` in a new process; `inWorker()` imports the package in a worker, and prints what came of it. */
function run(main: string) {
  const program = `
    import { getEnvironmentData, setEnvironmentData, Worker } from 'node:worker_threads';
    const entry = '${entry}';
    const inWorker = () => new Promise((resolve) => {
      const worker = new Worker(new URL('data:text/javascript,import ' + JSON.stringify(entry)));
      worker.once('error', ({ message }) => console.log(message));
      worker.once('exit', (code) => resolve(console.log('worker ended', code)));
    });
    ${main}`;
  const { stdout, stderr, status, signal } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', program],
    { encoding: 'utf8', timeout: 20_000 },
  );
  expect({ stderr, status, signal }).toEqual({ stderr: '', status: 0, signal: null });
  return stdout;
}

test('a worker that imports the package before the main thread is refused, and the process goes on', () => {
  const printed = run('await inWorker(); await import(entry); await inWorker();');
  expect(printed).toMatch(
    /^tsvisor: import the package in the main thread before .*\n.*pool: 'forks'.*\nworker ended 1\nworker ended 0\n$/,
  );
});

test('a worker whose ffi-rs is not the one that the main thread loaded is refused with both places', () => {
  const printed = run(`await import(entry);
    const [[path, entryOfIt]] = getEnvironmentData('tsvisor.loaded');
    setEnvironmentData('tsvisor.loaded', new Map([['/elsewhere/ffi-rs/index.js', { ...entryOfIt, by: '/elsewhere/tsvisor/' }]]));
    await inWorker();`);
  expect(printed).toMatch(/this copy of the package: \S+\/dist\/ \(with \S+\/ffi-rs\/index\.js\)/);
  expect(printed).toMatch(
    /in the main thread: \/elsewhere\/tsvisor\/ \(with \/elsewhere\/ffi-rs\/index\.js\)/,
  );
  expect(printed).toMatch(/worker ended 1\n$/);
});

test('a worker that would call a symbol first is refused', () => {
  const printed = run(`await import(entry);
    const [[path, { by, symbols }]] = getEnvironmentData('tsvisor.loaded');
    symbols.delete([...symbols][5]);
    setEnvironmentData('tsvisor.loaded', new Map([[path, { by, symbols }]]));
    await inWorker();`);
  expect(printed).toMatch(/^tsvisor: import the package in the main thread/);
  expect(printed).toMatch(/worker ended 1\n$/);
});

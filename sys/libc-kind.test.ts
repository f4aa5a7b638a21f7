import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { withLibcKind } from './libc-kind.js';

/** As loaders of native code ask; and what they get. */
const asked = () => (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header;

test('a loader learns which C library this is without a report, which others still get', () => {
  const real = asked();
  const inside = withLibcKind(asked);
  expect(Object.keys(inside)).toEqual(['glibcVersionRuntime']);
  expect(inside.glibcVersionRuntime !== undefined).toBe(real.glibcVersionRuntime !== undefined);
  expect(Object.keys(asked())).toEqual(Object.keys(real));
});

test('a loader that throws leaves reports as they were', () => {
  const before = Object.getOwnPropertyDescriptor(process, 'report');
  const failure = () => {
    throw new Error('built for another Node');
  };
  expect(() => withLibcKind(failure)).toThrowError('built for another Node');
  expect(Object.getOwnPropertyDescriptor(process, 'report')).toEqual(before);
});

test('no thread of a program that imports the package makes a report', () => {
  const entry = new URL('../dist/kvm/index.js', import.meta.url).href;
  const program = `
    import { Worker } from 'node:worker_threads';
    const watch = \`
      const { report } = process;
      const { getReport } = report;
      report.getReport = (...args) => (console.log('a report'), getReport.apply(report, args));\`;
    const run = 'import(' + JSON.stringify('${entry}') + ').then(({ Fd }) => console.log(Fd.name))';
    eval(watch);
    await eval(run);
    new Worker(watch + run, { eval: true });`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  expect({ stdout, stderr, status }).toEqual({ stdout: 'Fd\nFd\n', stderr: '', status: 0 });
});

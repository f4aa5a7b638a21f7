import { describe, expect, test, vi } from 'vitest';
import { runTests } from './tests.js';

const options = { devices: [] };

/** Runs all lab tests with the results of `run` for each file's name; returns the status, the calls and the list. */
async function runAll(run: (file: string, attempt: number) => number, tries: number, all = false) {
  const written: string[] = [];
  const spy = vi.spyOn(process.stderr, 'write').mockImplementation((text) => written.push(String(text)) > 0);
  const calls: string[] = [];
  const status = await runTests([], options, { timeoutMs: 1000, tries, all }, async ([command = '']) => {
    const [, file = ''] = /'([^']+)'$/.exec(command) ?? [];
    calls.push(file);
    return run(file, calls.filter((each) => each === file).length);
  });
  spy.mockRestore();
  return { status, calls, list: written.join('').split('test files:\n')[1] ?? '' };
}

const noLab = (): never => {
  throw new Error('L1 did not boot');
};
const EVENTS = 'lab/events.lab.test.ts';

describe('a run of all lab tests', () => {
  test('goes on after a file whose L1 fails, and reports that file with status 125', async () => {
    const { status, calls, list } = await runAll((file) => (file === EVENTS ? noLab() : 0), 1);
    expect(calls.indexOf(EVENTS)).toBeLessThan(calls.length - 1);
    expect(new Set(calls).size).toBe(calls.length);
    expect(status).toBe(125);
    expect(list).toMatch(/^no lab .*lab\/events\.lab\.test\.ts$/m);
    expect(list.match(/^ok /gm)).toHaveLength(calls.length - 1);
  });

  test('runs a file again that failed, and only that one', async () => {
    const flaky = (file: string, attempt: number) => (file === EVENTS && attempt === 1 ? noLab() : 0);
    const { status, calls } = await runAll(flaky, 2);
    expect(status).toBe(0);
    expect(calls.filter((file) => file === EVENTS)).toHaveLength(2);
    expect(new Set(calls).size).toBe(calls.length - 1);
  });

  test('lists a file that was stopped at its limit as such', async () => {
    const { status, list } = await runAll((file) => (file === EVENTS ? 124 : 0), 1);
    expect(status).toBe(124);
    expect(list).toMatch(/^at its limit .*events/m);
  });

  test('leaves the nightly files out, unless all are asked for', async () => {
    const nightly = (calls: readonly string[]) => calls.filter((file) => file.includes('.nightly.'));
    const usual = await runAll(() => 0, 1);
    const all = await runAll(() => 0, 1, true);
    expect(nightly(usual.calls)).toEqual([]);
    expect(nightly(all.calls)).toHaveLength(all.calls.length - usual.calls.length);
    expect(nightly(all.calls)).not.toEqual([]);
  });

  test('gives a file of served devices an L1 with these, and no other', async () => {
    const seen: [string, number, number][] = [];
    const spy = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    for (const name of ['lab/test-card.served.lab.test.ts', EVENTS])
      await runTests([name], { devices: ['edu'] }, { timeoutMs: 1000 }, async (_, { devices, served }) => {
        seen.push([name, devices?.length ?? 0, served?.length ?? 0]);
        return 0;
      });
    spy.mockRestore();
    expect(seen[0]?.[1]).toBe(0);
    expect(seen[0]?.[2]).toBeGreaterThan(3);
    expect(seen[1]).toEqual([EVENTS, 1, 0]);
  });
});

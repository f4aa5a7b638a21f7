import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { Patience, waitedForCpu } from './patience.js';

const limits = { silenceMs: 20_000, totalMs: 100_000 };

/** Checks every second until it gives up; returns the second and the reason. */
function giveUp(progressAt: (second: number) => number, waitShare = 0): [number, string] {
  const patience = new Patience(0, limits);
  for (let second = 1; second < 10_000; second++) {
    const why = patience.check(second * 1000, progressAt(second), second * 1000 * waitShare);
    if (why !== undefined) return [second, why];
  }
  throw new Error('for ever');
}

describe('Patience', () => {
  test('ends when nothing was printed for the limit', () => {
    expect(giveUp(() => 0)).toEqual([20, expect.stringContaining('no output for 20 s')]);
    expect(giveUp((second) => Math.min(second, 30))[0]).toBe(50);
  });

  test('lasts while output comes, but not for ever', () => {
    expect(giveUp((second) => second)).toEqual([100, expect.stringContaining('not up after 100 s')]);
  });

  test('does not count the time in which the emulator waits for a CPU', () => {
    expect(giveUp(() => 0, 0.75)[0]).toBe(80);
    expect(giveUp((second) => second, 0.75)[0]).toBe(400);
  });
});

test('the wait of a process that runs is known, and 0 once it has ended', async () => {
  const child = spawn('sleep', ['100']);
  await once(child, 'spawn');
  expect(waitedForCpu(process.pid)).toBeGreaterThan(0);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(waitedForCpu(child.pid!)).toBe(0);
});

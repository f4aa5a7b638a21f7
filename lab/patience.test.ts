import { describe, expect, test } from 'vitest';
import { Patience } from './patience.js';

const limits = { silenceMs: 20_000, totalMs: 100_000 };

/** Checks every second until it gives up; returns the second and the reason. */
function giveUp(progressAt: (second: number) => number, busy = 1): [number, string] {
  const patience = new Patience(0, limits);
  for (let second = 1; second < 10_000; second++) {
    const why = patience.check(second * 1000, progressAt(second), busy);
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

  test('is longer on a busy machine, by what the processes in line take', () => {
    expect(giveUp(() => 0, 4)[0]).toBe(80);
    expect(giveUp((second) => second, 4)[0]).toBe(400);
  });
});

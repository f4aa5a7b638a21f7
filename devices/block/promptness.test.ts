import { expect, test } from 'vitest';
import { Promptness } from './promptness.js';

const LIMIT = { factor: 8, ms: 0.01 };
/** How many operations go another way before one is tried again. */
function detour(promptness: Promptness): number {
  let count = 0;
  while (!promptness.isExpected()) count++;
  return count;
}

test('operations that take about the same time, for their bytes, are prompt', () => {
  const promptness = new Promptness(LIMIT);
  for (const [ms, bytes] of [
    [0.002, 4096],
    [0.003, 4096],
    [0.012, 4096],
    [0.15, 1 << 20],
    [1, 1 << 20],
  ] as const) {
    promptness.note(ms, bytes);
    expect(detour(promptness)).toBe(0);
  }
});

test('one that took far longer sends the next 16 another way, and twice as many each time that it lasts', () => {
  const promptness = new Promptness(LIMIT);
  promptness.note(0.002, 4096);
  const detours = Array.from({ length: 9 }, () => {
    promptness.note(0.1, 4096);
    return detour(promptness);
  });
  expect(detours).toEqual([16, 32, 64, 128, 256, 512, 1024, 1024, 1024]);
  promptness.note(0.002, 4096);
  expect(detour(promptness)).toBe(0);
  promptness.note(0.1, 4096);
  expect(detour(promptness)).toBe(16);
});

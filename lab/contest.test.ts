import { expect, test } from 'vitest';
import { comparison } from './contest.js';

const samples = (...values: (number | undefined)[]) =>
  new Map(
    values.flatMap((value, round) => (value === undefined ? [] : [[round, { speed: value }] as const])),
  );

test('a ratio is the median of the rounds’ ratios, not that of the medians', () => {
  // The machine was ten times as fast in the third round.
  expect(comparison('speed', samples(2, 3, 40), samples(1, 2, 10))).toEqual({
    ours: 3,
    theirs: 2,
    ratio: 2,
    lowest: 1.5,
    highest: 4,
    pairs: 3,
  });
});

test('a round in which a side has no sample is left out', () => {
  expect(comparison('speed', samples(2, undefined, 9), samples(1, 7, undefined))).toMatchObject({
    ours: 2,
    theirs: 1,
    pairs: 1,
  });
});

test('without a pair, there is no ratio', () => {
  expect(comparison('speed', samples(2), samples()).ratio).toBeNaN();
});

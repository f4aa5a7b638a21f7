import fc from 'fast-check';
import { expect, test } from 'vitest';
import { didYouMean, editDistance, nearest } from './suggestion.js';

test.each([
  ['rnu', 'run', 1],
  ['cpu', 'cpus', 1],
  ['memroy', 'memory', 1],
  ['', 'abc', 3],
  ['kitten', 'sitting', 3],
])('from %s to %s are %i edits', (from, to, edits) => {
  expect(editDistance(from, to)).toBe(edits);
});

test('the distance is the same in both directions, and 0 for the same word only', () => {
  const word = fc.string({ maxLength: 8, unit: fc.constantFrom('a', 'b', 'c') });
  fc.assert(
    fc.property(word, word, (a, b) => {
      expect(editDistance(a, b)).toBe(editDistance(b, a));
      expect(editDistance(a, b) === 0).toBe(a === b);
      expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length));
    }),
  );
});

test.each([
  ['rnu', 'run'],
  ['RUN', 'run'],
  ['srve', 'serve'],
  ['devcies', 'devices'],
  ['mdevs', 'mdev'],
  ['walk', undefined],
  ['x', undefined],
  ['', undefined],
  ['x'.repeat(100_000), undefined],
])('%s is taken for %s', (word, meant) => {
  expect(nearest(word, ['run', 'serve', 'devices', 'mdev', 'ctl'])).toBe(meant);
});

test('a suggestion is a question, and none is nothing', () => {
  expect([didYouMean('rnu', ['run']), didYouMean('walk', ['run'])]).toEqual(['; did you mean run?', '']);
});

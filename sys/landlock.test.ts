import { expect, test } from 'vitest';
import { isRestricted, rulesetAttr } from './landlock.js';

test.each([
  [1, [0x1fffn]],
  [2, [0x3fffn]],
  [3, [0x7fffn]],
  [4, [0x7fffn, 3n]],
  [5, [0xffffn, 3n]],
  [6, [0xffffn, 3n, 3n]],
  [9, [0xffffn, 3n, 3n]],
])('a ruleset for ABI %i takes away all that this version can', (abi, words) => {
  expect([...new BigUint64Array(rulesetAttr(abi).buffer)]).toEqual(words);
});

test('a process without rules is not restricted', () => {
  expect(isRestricted()).toBe(false);
});

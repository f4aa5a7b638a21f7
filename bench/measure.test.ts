import { expect, test } from 'vitest';
import { interleave, interleaveEach, percentiles } from './measure.js';

test('percentiles are values that were measured, by nearest rank', () => {
  const values = Array.from({ length: 10_000 }, (_, i) => 10_000 - i);
  expect(percentiles(values)).toEqual({ samples: 10_000, p50: 5000, p99: 9900, p999: 9990 });
  expect(percentiles([7])).toEqual({ samples: 1, p50: 7, p99: 7, p999: 7 });
  expect(() => percentiles([])).toThrowError(RangeError);
});

test('numbers are sorted as numbers', () => {
  expect(percentiles([10, 9, 100]).p50).toBe(10);
});

test('contenders take turns, and the samples of all rounds count', async () => {
  const turns: string[] = [];
  const taker = (name: string, value: number) => () => {
    turns.push(name);
    return value;
  };
  expect(await interleave(2, { a: taker('a', 1), b: taker('b', 2) })).toEqual({ a: 1, b: 2 });
  expect(turns).toEqual(['a', 'b', 'a', 'b']);
  let next = 0;
  const { c } = await interleaveEach(2, { c: () => [next++, next++] });
  expect(c).toEqual({ samples: 4, p50: 1, p99: 3, p999: 3 });
});

import { expect, test } from 'vitest';
import { orderInterval } from './ratio.js';

test('of nine values, the second from each end: that holds the median with 96 %', () => {
  const { median, low, high, confidence } = orderInterval([9, 1, 8, 2, 7, 3, 6, 4, 5]);
  expect({ median, low, high }).toEqual({ median: 5, low: 2, high: 8 });
  expect(confidence).toBeCloseTo(1 - 20 / 512);
});

test('of many values it is narrow, and still at least 95 %', () => {
  const { low, high, confidence } = orderInterval(Array.from({ length: 101 }, (_, i) => i));
  expect({ low, high }).toEqual({ low: 40, high: 60 }); // binomial(101, 1/2): 39 is its 2.5 % point
  expect(confidence).toBeGreaterThan(0.95);
  expect(confidence).toBeLessThan(0.97);
});

test('of few values it is their range, and says how little that is', () => {
  expect(orderInterval([2, 1, 3])).toEqual({ median: 2, low: 1, high: 3, confidence: 0.75 });
  expect(orderInterval([1]).confidence).toBe(0);
  expect(() => orderInterval([])).toThrowError(RangeError);
});

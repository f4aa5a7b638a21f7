import { expect, test } from 'vitest';
import { mebibytesPerSecond, median, medianOf, parseReadings, perSecond } from './meter.js';

const output = [
  'L2-USERSPACE 3.01',
  'L2-METER down 67108864 67108864 in 2000000 us, 3 exits',
  'guest | L2-METER down 67108864 67108864 in 4000000 us, 0 exits',
  'L2-METER down 67108864 67108864 in 1000000 us, 0 exits',
  'L2-METER read /dev/vda 4096 4194304 1 67108864 4194304 in 500000 us, 0 exits',
  '',
].join('\r\n');

test('a reading has its command’s words, amount, time and exits', () => {
  const readings = parseReadings(output);
  expect(readings).toHaveLength(4);
  expect(readings[0]).toEqual({ what: 'down 67108864', amount: 67108864, us: 2_000_000, exits: 3 });
  expect(readings[3]).toMatchObject({ what: 'read /dev/vda 4096 4194304 1 67108864', amount: 4194304 });
});

test('a value is the median of the readings of one command', () => {
  const readings = parseReadings(output);
  expect(medianOf(readings, 'down', mebibytesPerSecond)).toBe(32);
  expect(medianOf(readings, 'read /dev/vda 4096 ', perSecond)).toBe(8388608);
});

test('a command that has measured nothing is an error', () => {
  expect(() => medianOf(parseReadings(output), 'up', perSecond)).toThrowError(/not measured 'up'/);
});

test('a median is the middle value, or lies between the two', () => {
  expect([[3, 1, 2], [4, 1, 2, 9], [5]].map(median)).toEqual([2, 3, 5]);
  expect(median([])).toBeNaN();
});

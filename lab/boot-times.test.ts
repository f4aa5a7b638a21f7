import { expect, test } from 'vitest';
import { parseBootTimes } from './boot-times.js';

const output = [
  'guest | L2-USERSPACE 2.51',
  'VmHWM:	  357376 kB',
  'LAB-BOOT start 100.5',
  'LAB-BOOT group 102.25',
  'LAB-BOOT run 104.75',
  'LAB-BOOT run 104.8',
  'LAB-BOOT userspace 108',
  '',
].join('\n');

test('a phase lasts from one moment to the next, and a vCPU’s first run counts', () => {
  expect(parseBootTimes(output)).toEqual({
    opened: 1.75,
    attached: 2.5,
    guest: 3.25,
    all: 7.5,
    resident: 349,
  });
});

test('a missing moment is an error that names it', () => {
  expect(() => parseBootTimes(output.replace(/^LAB-BOOT group.*$/m, ''))).toThrowError(/saw no 'group'/);
  expect(() => parseBootTimes(output.replace(/^VmHWM.*$/m, ''))).toThrowError(/before its memory was read/);
});

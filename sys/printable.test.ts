import { expect, test } from 'vitest';
import { printable, printableJson } from './printable.js';

const NASTY = 'a\u001b[2Jb\nc\u009b31md\u202ee\u2028f\u007fg\u{e0041}h';

test('control and formatting characters are written out, and all others kept', () => {
  expect(printable(NASTY)).toBe('a\\x1b[2Jb\\x0ac\\x9b31md\\x202ee\\x2028f\\x7fg\\xe0041h');
  expect(printable('Intel® 82574L, ½ naïve 日本')).toBe('Intel® 82574L, ½ naïve 日本');
});

test('JSON has none of them, and means the same', () => {
  const json = printableJson({ name: NASTY });
  expect(json).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
  expect(JSON.parse(json)).toEqual({ name: NASTY });
});

import { afterEach, expect, test, vi } from 'vitest';
import { paintFor } from './colours.js';

afterEach(() => vi.unstubAllEnvs());

test.each([
  [true, '', 'xterm', true],
  [true, '1', 'xterm', false],
  [true, '', 'dumb', false],
  [false, '', 'xterm', false],
  [undefined, '', 'xterm', false],
])('isTTY %s, NO_COLOR=%j and TERM=%s: colours %s', (isTTY, noColor, term, hasColours) => {
  vi.stubEnv('NO_COLOR', noColor);
  vi.stubEnv('TERM', term);
  const text = paintFor(isTTY === undefined ? {} : { isTTY })('error', 'tsvisor:');
  expect(text).toBe(hasColours ? '\x1b[31mtsvisor:\x1b[0m' : 'tsvisor:');
});

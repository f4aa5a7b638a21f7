import { expect, test } from 'vitest';
import { LineSplitter } from './output.js';

test('a guest’s line that never ends is printed in pieces, so that it takes no memory', () => {
  const printed: string[] = [];
  const lines = new LineSplitter((line) => {
    printed.push(line);
    return undefined;
  });
  for (let i = 0; i < 1000; i++) lines.push(new Uint8Array(256).fill(0x61));
  const characters = printed.reduce((sum, line) => sum + line.length, 0);
  expect(characters).toBeGreaterThan(1000 * 256 - 5000);
  lines.push(new TextEncoder().encode('end\r\nnext'));
  expect(printed.at(-1)).toMatch(/a*end$/);
});

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const root = new URL('../../', import.meta.url);
const read = (path: string) => readFileSync(new URL(path, root), 'utf8');

test('each rule of docs/linux-rules.md is the name of a test in the file it says, and its implementation is there', () => {
  const table = read('docs/linux-rules.md')
    .split('\n')
    .filter((line) => line.startsWith('| ') && !line.startsWith('| rule '));
  const rows = table.map((line) => /^\| (.+?) \| `(.+?)` \| `(.+?)` \| ([a-z0-9_, ]+) \|$/.exec(line));
  expect(rows.length).toBeGreaterThan(30);
  const missing = rows.flatMap((row, i) => {
    if (row === null) return [`no row: ${table[i]}`];
    const [, rule = '', testFile = '', ours = ''] = row;
    expect(read(ours).length).toBeGreaterThan(0);
    const source = read(testFile).replaceAll("\\'", "'");
    return ["'", '"'].some((quote) => source.includes(`test(${quote}${rule}${quote}, `)) ? [] : [rule];
  });
  expect(missing).toEqual([]);
  expect(new Set(rows.map((row) => row?.[1])).size).toBe(rows.length);
});

import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const here = new URL('./', import.meta.url);
const page = readFileSync(new URL('../../docs/behaviours.md', here), 'utf8');
const COUNTS = { A: 9, B: 12, C: 18, D: 9, E: 10, F: 11 };
const ids = Object.entries(COUNTS).flatMap(([letter, count]) =>
  Array.from({ length: count }, (_, i) => `${letter}${i + 1}`),
);

test('each behaviour of the page is the name of a test in the file it says, and there are 69', () => {
  const rows = [...page.matchAll(/^\| ([A-F]\d+) \| (.+?) \| `(.+?)` \| (.+?) \|$/gm)];
  expect(rows.map(([, id]) => id)).toEqual(ids);
  const sources = new Map(
    readdirSync(here)
      .filter((file) => file.endsWith('.test.ts'))
      .map((file) => [file, readFileSync(new URL(file, here), 'utf8').replaceAll("\\'", "'")]),
  );
  const missing = rows.filter(([, id, sentence, file]) => {
    const source = sources.get(file ?? '') ?? '';
    return !["'", '"'].some((quote) => source.includes(`test(${quote}${id} ${sentence}${quote}`));
  });
  expect(missing.map(([, id]) => id)).toEqual([]);
});

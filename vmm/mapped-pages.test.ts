import { expect, test } from 'vitest';
import { Mapping } from '../sys/mapping.js';
import { ownMappings, pagesOf, parseSmaps } from './mapped-pages.js';

const entry = (range: string, figures: Readonly<Record<string, number>>): string =>
  [
    `${range} rw-p 00000000 00:00 0                          [anon: x]`,
    ...Object.entries(figures).map(([name, kib]) => `${`${name}:`.padEnd(16)}${String(kib).padStart(8)} kB`),
    'VmFlags: rd wr mr mw me ac sd hg',
  ].join('\n');

const TEXT = `${[
  entry('7f0000000000-7f0000400000', { Size: 4096, KernelPageSize: 4, Rss: 3072, AnonHugePages: 2048 }),
  entry('7f0000400000-7f0000500000', { Size: 1024, KernelPageSize: 4, Rss: 4, AnonHugePages: 0 }),
  entry('7f0001000000-7f0001200000', { KernelPageSize: 2048, Rss: 0, Private_Hugetlb: 2048 }),
].join('\n')}\n`;

test('small, transparent huge and hugetlbfs pages are told apart', () => {
  const entries = parseSmaps(TEXT);
  expect(entries).toHaveLength(3);
  expect(pagesOf(entries, 0x7f00_0000_0000n, 0x1000n)).toEqual({
    ...{ pageBytes: 4096, mappedBytes: 4 << 20, residentBytes: 3 << 20, hugeBytes: 2 << 20 },
  });
  expect(pagesOf(entries, 0x7f00_0100_0000n, 0x1000n)).toEqual({
    ...{ pageBytes: 2 << 20, mappedBytes: 2 << 20, residentBytes: 2 << 20, hugeBytes: 2 << 20 },
  });
});

test('a range over two mappings has the pages of both, and one over none has none', () => {
  const entries = parseSmaps(TEXT);
  expect(pagesOf(entries, 0x7f00_003f_f000n, 0x2000n)?.residentBytes).toBe((3072 + 4) * 1024);
  expect(pagesOf(entries, 0x7f00_0050_0000n, 0x1000n)).toBeUndefined();
});

test('a mapping of this process is found, with the pages that were touched', () => {
  using mapping = Mapping.anonymous(16 * 4096);
  mapping.view.slice(0, 1)[0] = 1;
  const pages = pagesOf(ownMappings(), mapping.hva, BigInt(mapping.bytes));
  expect(pages?.pageBytes).toBe(4096);
  expect(pages?.residentBytes).toBeGreaterThanOrEqual(4096);
});

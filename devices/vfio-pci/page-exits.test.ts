import { expect, test } from 'vitest';
import { CountedBar, MOST_PAGES } from './page-exits.js';

const PAGE = 0x1000;

function counted() {
  const calls: [string, number][] = [];
  const device = {
    name: 'a BAR',
    read: (offset: number) => void calls.push(['read', offset]),
    write: (offset: number) => void calls.push(['write', offset]),
  };
  return { calls, bar: new CountedBar(device) };
}

const one = new Uint8Array(1);

test('accesses reach the device, and are counted by page and direction in order of their offsets', () => {
  const { calls, bar } = counted();
  bar.write(2 * PAGE + 8, one);
  bar.read(PAGE - 1, one);
  bar.read(0, one);
  bar.read(2 * PAGE, one);
  bar.write(3 * PAGE - 1, one);
  expect(calls).toEqual([
    ['write', 2 * PAGE + 8],
    ['read', PAGE - 1],
    ['read', 0],
    ['read', 2 * PAGE],
    ['write', 3 * PAGE - 1],
  ]);
  expect(bar.pages).toEqual([
    { offset: 0, reads: 2, writes: 0 },
    { offset: 2 * PAGE, reads: 1, writes: 2 },
  ]);
  expect(bar.others).toBe(0);
});

test('a page that is accessed again after others keeps its count', () => {
  const { bar } = counted();
  for (const page of [1, 0, 1]) bar.read(page * PAGE, one);
  expect(bar.pages.map(({ reads }) => reads)).toEqual([1, 2]);
});

test('a guest that accesses more pages than are counted is counted with the rest together', () => {
  const { bar } = counted();
  for (let page = 0; page < MOST_PAGES + 2; page++) bar.read(page * PAGE, one);
  bar.write((MOST_PAGES + 1) * PAGE, one);
  bar.read(0, one);
  expect(bar.pages).toHaveLength(MOST_PAGES);
  expect(bar.pages[0]).toEqual({ offset: 0, reads: 2, writes: 0 });
  expect(bar.others).toBe(3);
});

test('what was read of the counts before does not change', () => {
  const { bar } = counted();
  bar.read(0, one);
  const before = bar.pages;
  bar.read(0, one);
  expect(before).toEqual([{ offset: 0, reads: 1, writes: 0 }]);
});

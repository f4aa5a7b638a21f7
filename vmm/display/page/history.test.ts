import { expect, test } from 'vitest';
import { History } from './history.js';

test('rates are counts per second of the time between two readings, by name; a restarted machine counts from 0', () => {
  const history = new History();
  history.add(1000, { COM1: 10 });
  expect(history.series).toEqual([{ name: 'COM1', values: [] }]);
  history.add(3000, { COM1: 30, 'PCI ECAM': 8 });
  history.add(3500, { COM1: 40, 'PCI ECAM': 8 });
  history.add(4500, { COM1: 4 });
  expect(history.series).toEqual([
    { name: 'COM1', values: [10, 20, 4] },
    { name: 'PCI ECAM', values: [4, 0] },
  ]);
});

test('two minutes are kept', () => {
  const history = new History();
  for (let second = 0; second < 1000; second++) history.add(1000 * second, { COM1: second * second });
  const values = history.series[0]?.values ?? [];
  expect(values.length).toBe(History.samples);
  expect(values.at(-1)).toBe(2 * 999 - 1);
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Numbers } from './ref-count.js';

test('the lowest number that is free is the next one, whatever came back in which order', () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.nat(20), { freq: 1 }), { maxLength: 200 }), (history) => {
      const numbers = new Numbers();
      const used = new Set<number>();
      for (const freed of history) {
        if (freed !== null) {
          numbers.free(freed);
          used.delete(freed);
          continue;
        }
        let lowest = 0;
        while (used.has(lowest)) lowest++;
        expect(numbers.alloc()).toBe(lowest);
        used.add(lowest);
      }
      expect(numbers.count).toBe(used.size);
    }),
  );
});

test('many numbers that come back in any order are the next ones, the lowest first', () => {
  const all = Array.from({ length: 40 }, (_, i) => i);
  fc.assert(
    fc.property(fc.shuffledSubarray(all), (freed) => {
      const numbers = new Numbers();
      for (const number of all) expect(numbers.alloc()).toBe(number);
      for (const number of freed) numbers.free(number);
      expect(freed.map(() => numbers.alloc())).toEqual([...freed].sort((a, b) => a - b));
      expect(numbers.alloc()).toBe(all.length);
    }),
  );
});

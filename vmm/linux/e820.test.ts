import fc from 'fast-check';
import { expect, test } from 'vitest';
import { buildE820, E820_TYPE_RAM, E820_TYPE_RESERVED, type PhysicalRange } from './e820.js';

const range = fc
  .tuple(fc.nat(200), fc.nat(50))
  .map(([base, bytes]): PhysicalRange => ({ base: BigInt(base), bytes: BigInt(bytes) }));
const ranges = fc.array(range, { maxLength: 8 });
const END = 260n;
const holds = (list: readonly PhysicalRange[], at: bigint): boolean =>
  list.some(({ base, bytes }) => at >= base && at < base + bytes);

test('each byte is RAM, reserved or nothing, as planned, in sorted ranges that neither overlap nor touch', () => {
  fc.assert(
    fc.property(ranges, ranges, ranges, (ram, reserved, hidden) => {
      const map = buildE820({ ram, reserved, hidden });
      for (let at = 0n; at < END; at++) {
        const found = map
          .filter(({ base, bytes }) => at >= base && at < base + bytes)
          .map(({ type }) => type);
        const isRam = holds(ram, at) && !holds(reserved, at) && !holds(hidden, at);
        expect(found).toEqual(holds(reserved, at) ? [E820_TYPE_RESERVED] : isRam ? [E820_TYPE_RAM] : []);
      }
      for (const [i, { base, bytes, type }] of map.entries()) {
        expect(bytes).toBeGreaterThan(0n);
        const next = map[i + 1];
        if (next === undefined) continue;
        expect(next.base).toBeGreaterThanOrEqual(base + bytes);
        if (next.base === base + bytes) expect(next.type).not.toBe(type);
      }
    }),
  );
});

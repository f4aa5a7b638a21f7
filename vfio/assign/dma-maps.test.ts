import { expect, test } from 'vitest';
import { gpa, hva, type Iova } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { DmaMaps } from './dma-maps.js';
import type { MemoryRegion } from './guest-memory.js';

const region = (kind: MemoryRegion['kind'], name: string, at: bigint): MemoryRegion => ({
  ...{ kind, name, gpa: gpa(at), hva: hva(0x7000_0000n + at), bytes: 4096n },
});
const RAM = region('ram', 'ram', 0n);
const BAR = region('device', 'BAR2', 0x1000n);
const HIGH = region('ram', 'ram', 0x2000n);

/** A container that maps several at once, but not at `refused`. */
function batching(refused: bigint) {
  const now = new Set<Iova>();
  let calls = 0;
  const maps = new DmaMaps(
    {
      map: ({ iova }) => void now.add(iova),
      mapEach: (all) => {
        calls++;
        return all.map(({ iova }) => {
          if (iova === refused) return new SysError({ call: 'map', target: 'server', errno: errno.EPERM });
          now.add(iova);
          return undefined;
        });
      },
      unmap: (iova) => void now.delete(iova),
    },
    'a container',
  );
  return { maps, now, calls: () => calls };
}

test('what is there is mapped in one call; another device’s BAR may be refused', () => {
  const { maps, now, calls } = batching(0x1000n);
  maps.addedAll?.([RAM, BAR, HIGH]);
  expect([[...now], calls()]).toEqual([[0n, 0x2000n], 1]);
  expect([RAM, BAR, HIGH].map((each) => maps.iovaOf(each))).toEqual([0n, undefined, 0x2000n]);
});

test('RAM that is refused is the error, and nothing stays mapped', () => {
  const { maps, now } = batching(0x2000n);
  expect(() => maps.addedAll?.([RAM, BAR, HIGH])).toThrowError(/EPERM/);
  expect([...now]).toEqual([]);
  expect(maps.iovaOf(RAM)).toBeUndefined();
});

test('a target that maps one after the other is asked for nothing else', () => {
  expect(new DmaMaps({ map: () => {}, unmap: () => {} }, 'a container').addedAll).toBeUndefined();
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Mapping, PROT_READ } from '../../sys/mapping.js';
import { IOMMU_PAGE } from '../dma-range.js';
import { World } from '../testing/world.js';
import { DmaSpace } from './dma-space.js';

test('find and findLast are the first and the last map with a byte in the range, as a search of all would say', () => {
  using memory = Mapping.anonymous(4 * Number(IOMMU_PAGE));
  const { environment } = new World().core;
  const pages = (count: number) => BigInt(count) * IOMMU_PAGE;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 4 })), { maxLength: 20 }),
      fc.nat(45),
      fc.integer({ min: 1, max: 20 }),
      (wanted, at, length) => {
        const space = new DmaSpace(environment, 'space');
        for (const [iova, size] of wanted) {
          if (space.find(pages(iova), pages(size)) !== undefined) continue;
          space.insert('map', pages(iova), pages(size), memory.hva, PROT_READ);
        }
        const [iova, size] = [pages(at), pages(length)];
        const inRange = space.maps.filter((dma) => dma.iova < iova + size && dma.iova + dma.size > iova);
        expect(space.find(iova, size)).toBe(inRange[0]);
        expect(space.findLast(iova, size)).toBe(inRange.at(-1));
      },
    ),
  );
});

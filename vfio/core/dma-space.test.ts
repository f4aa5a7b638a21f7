import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Mapping, PROT_READ } from '../../sys/mapping.js';
import { IOMMU_PAGE } from '../dma-range.js';
import { createDmaTable, DmaTableReader, DmaTableWriter } from '../dma-table.js';
import { World } from '../testing/world.js';
import { DmaSpace } from './dma-space.js';

test('find is the first map with a byte in the range, as a search of all would say, whatever is unlinked', () => {
  using memory = Mapping.anonymous(4 * Number(IOMMU_PAGE));
  const { environment } = new World().core;
  const pages = (count: number) => BigInt(count) * IOMMU_PAGE;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 4 })), { maxLength: 20 }),
      fc.nat(45),
      fc.integer({ min: 1, max: 20 }),
      fc.array(fc.nat(19), { maxLength: 6 }),
      (wanted, at, length, gone) => {
        const space = new DmaSpace(environment, 'space');
        const writer = new DmaTableWriter(createDmaTable(64));
        const reader = new DmaTableReader(writer.buffer);
        space.publish(writer);
        for (const [iova, size] of wanted) {
          if (space.find(pages(iova), pages(size)) !== undefined) continue;
          space.insert('map', pages(iova), pages(size), memory.hva, PROT_READ);
        }
        for (const [index, dma] of [...space.maps].entries()) if (gone.includes(index)) space.unlink(dma);
        const [iova, size] = [pages(at), pages(length)];
        const found = space.find(iova, size);
        const inRange = space.maps.filter((dma) => dma.iova < iova + size && dma.iova + dma.size > iova);
        expect(found).toBe(inRange[0]);
        expect(space.find(iova, size)).toBe(found);
        const everyPage = Array.from({ length: 45 }, (_, page) => pages(page));
        reader.enter();
        const reachable = everyPage.filter((page) => reader.slice(Number(page), 1, PROT_READ) !== undefined);
        reader.leave();
        expect(reachable).toEqual(everyPage.filter((page) => space.find(page, 1n) !== undefined));
      },
    ),
  );
});

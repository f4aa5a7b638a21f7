import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { type BarArea, type BarLayoutInput, bytesOf, layOutBar } from './bar-layout.js';

const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
const MAPPABLE = READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP;

const area = (end: number): fc.Arbitrary<BarArea> =>
  fc.record({
    offset: fc.integer({ min: 0, max: Math.ceil(end * 1.25) }),
    size: fc.integer({ min: 0, max: end }),
  });

const input: fc.Arbitrary<BarLayoutInput> = fc
  .record({ bits: fc.integer({ min: 4, max: 18 }), pageBits: fc.constantFrom(12, 14, 16) })
  .chain(({ bits, pageBits }) => {
    const barSize = 2 ** bits;
    return fc.record({
      barSize: fc.constant(barSize),
      regionSize: fc.integer({ min: 1, max: barSize }),
      flags: fc.constantFrom(READ_WRITE, MAPPABLE),
      sparse: fc.option(fc.array(area(barSize), { maxLength: 5 }), { nil: undefined }),
      msix: fc.array(area(barSize), { maxLength: 2 }),
      pageSize: fc.constant(2 ** pageBits),
    });
  });

const contains = ({ offset, size }: BarArea, at: number): boolean => offset <= at && at < offset + size;

describe('BAR layout', () => {
  test('the spans cover the BAR exactly once, in order, and adjacent spans differ', () => {
    fc.assert(
      fc.property(input, (given) => {
        const spans = layOutBar(given);
        let end = 0;
        for (const [i, span] of spans.entries()) {
          expect(span.offset).toBe(end);
          expect(span.size).toBeGreaterThan(0);
          expect(span.kind).not.toBe(spans[i - 1]?.kind);
          end += span.size;
        }
        expect(end).toBe(given.barSize);
      }),
    );
  });

  test('a page is mapped if and only if all of it may be mapped and none of it belongs to MSI-X', () => {
    fc.assert(
      fc.property(input, (given) => {
        const { barSize, regionSize, flags, sparse, msix, pageSize } = given;
        const spans = layOutBar(given);
        for (const span of spans) {
          if (span.kind === 'mapped') expect([span.offset % pageSize, span.size % pageSize]).toEqual([0, 0]);
        }
        for (let page = 0; page < barSize; page += pageSize) {
          const kind = spans.find((span) => contains(span, page))?.kind;
          const end = page + pageSize;
          const allowed = (sparse ?? [{ offset: 0, size: regionSize }]).some(
            ({ offset, size }) => offset <= page && end <= Math.min(offset + size, regionSize),
          );
          const isHole = msix.some(({ offset, size }) => size > 0 && offset < end && page < offset + size);
          const isMapped = flags === MAPPABLE && end <= barSize && allowed && !isHole;
          expect(kind).toBe(isMapped ? 'mapped' : 'trapped');
        }
      }),
    );
  });

  test('a network card’s page with the MSI-X table is the only trapped one', () => {
    const spans = layOutBar({
      barSize: 0x8000,
      regionSize: 0x8000,
      flags: MAPPABLE,
      msix: [
        { offset: 0x2000, size: 80 },
        { offset: 0x2800, size: 8 },
      ],
      pageSize: 4096,
    });
    expect(spans).toEqual([
      { offset: 0, size: 0x2000, kind: 'mapped' },
      { offset: 0x2000, size: 0x1000, kind: 'trapped' },
      { offset: 0x3000, size: 0x5000, kind: 'mapped' },
    ]);
    expect(bytesOf(spans, 'mapped')).toBe(0x7000);
  });

  test('a BAR smaller than a page is trapped even if the region can be mapped', () => {
    const spans = layOutBar({ barSize: 256, regionSize: 256, flags: MAPPABLE, msix: [], pageSize: 4096 });
    expect(spans).toEqual([{ offset: 0, size: 256, kind: 'trapped' }]);
  });

  test('the part past the end of a region whose size is no power of two is trapped', () => {
    const spans = layOutBar({
      barSize: 0x4000,
      regionSize: 0x2801,
      flags: MAPPABLE,
      msix: [],
      pageSize: 4096,
    });
    expect(spans).toEqual([
      { offset: 0, size: 0x2000, kind: 'mapped' },
      { offset: 0x2000, size: 0x2000, kind: 'trapped' },
    ]);
  });

  test('with an empty list of sparse areas, nothing is mapped', () => {
    const given = { barSize: 0x4000, regionSize: 0x4000, flags: MAPPABLE, msix: [], pageSize: 4096 };
    expect(bytesOf(layOutBar({ ...given, sparse: [] }), 'mapped')).toBe(0);
  });

  test.each([
    { size: 0, spans: [['mapped', 0, 0x3000]] },
    {
      size: 1,
      spans: [
        ['mapped', 0, 0x1000],
        ['trapped', 0x1000, 0x1000],
        ['mapped', 0x2000, 0x1000],
      ],
    },
  ])('$size bytes of MSI-X in a page make it trapped, or not', ({ size, spans }) => {
    const msix = [{ offset: 0x1800, size }];
    const layout = layOutBar({
      barSize: 0x3000,
      regionSize: 0x3000,
      flags: MAPPABLE,
      sparse: undefined,
      msix,
      pageSize: 4096,
    });
    expect(layout.map(({ kind, offset, size }) => [kind, offset, size])).toEqual(spans);
  });
});

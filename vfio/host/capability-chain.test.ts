import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
} from '../uapi.js';
import { MalformedReply, walkCapabilityChain } from './capability-chain.js';
import { decodeIommuInfo } from './container.js';
import { decodeRegionInfo } from './region-info.js';
import { CapSparseMmap, CapType, InfoCapHeader, RegionInfoStruct, SparseMmapArea } from './structs.js';
import { Type1Info, VFIO_IOMMU_INFO_CAPS } from './structs-type1.js';
import { chain } from './testing/index.js';

const FIXED = 32;

/** A reply with headers at the given places. */
function reply(
  bytes: number,
  headers: readonly (readonly [at: number, id: number, next: number])[],
): Uint8Array {
  const made = new Uint8Array(bytes);
  for (const [at, id, next] of headers) InfoCapHeader.write(made, { id, version: 1, next }, at);
  return made;
}

test('a chain is walked in its own order, forwards or backwards, to the 0', () => {
  const bytes = reply(64, [
    [48, 7, 32],
    [32, 8, 0],
  ]);
  expect(walkCapabilityChain(bytes, 48, FIXED)).toEqual([
    { id: 7, version: 1, at: 48 },
    { id: 8, version: 1, at: 32 },
  ]);
  expect(walkCapabilityChain(bytes, 0, FIXED)).toEqual([]);
});

test.each([
  ['in the fixed part', 24, /lies in the fixed part/],
  ['past the reply', 64, /is outside the reply/],
  ['across its end', 60, /is outside the reply/],
  ['misaligned', 33, /is misaligned/],
])('a capability that lies %s is refused', (_where, first, message) => {
  expect(() => walkCapabilityChain(reply(64, []), first, FIXED)).toThrowError(message);
});

test.each([
  ['to itself', [[32, 1, 32]]],
  [
    'to one before',
    [
      [32, 1, 48],
      [48, 2, 32],
    ],
  ],
] as const)('a chain that leads back %s is refused', (_where, headers) => {
  expect(() => walkCapabilityChain(reply(64, headers), 32, FIXED)).toThrowError(/is a cycle/);
});

/** What a decoder does with any bytes: it ends, with a value or by saying that they are malformed. */
function decodesOrRefuses(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    expect(error).toBeInstanceOf(MalformedReply);
  }
}

const offsets = fc.integer({ min: 0, max: 160 });

test('no reply, however wrong, makes a decoder hang, read past the end or fail in another way', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 160 }), offsets, (bytes, first) => {
      decodesOrRefuses(() => walkCapabilityChain(bytes, first, FIXED));
    }),
  );
  const links = fc.array(fc.tuple(fc.integer({ min: 0, max: 38 }), fc.integer({ min: 0, max: 4 }), offsets));
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 24, maxLength: 160 }), links, offsets, (noise, headers, first) => {
      const bytes = new Uint8Array(160);
      bytes.set(noise);
      for (const [word, id, next] of headers) InfoCapHeader.write(bytes, { id, next }, word * 4);
      RegionInfoStruct.write(bytes, { flags: VFIO_REGION_INFO_FLAG_CAPS, cap_offset: first });
      decodesOrRefuses(() => decodeRegionInfo(bytes));
      Type1Info.write(bytes, { flags: VFIO_IOMMU_INFO_CAPS, cap_offset: first });
      decodesOrRefuses(() => decodeIommuInfo(bytes));
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => decodesOrRefuses(() => decodeRegionInfo(bytes))),
  );
});

test('what the kernel chains is what is decoded, whatever stands between', () => {
  const pages = fc.integer({ min: 0, max: 2 ** 20 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(pages, pages)),
      fc.nat(),
      fc.nat(),
      fc.uint8Array(),
      (areas, type, subtype, other) => {
        const sparse = CapSparseMmap.encode({ nr_areas: areas.length }, areas.length * SparseMmapArea.size);
        for (const [i, [offset, size]] of areas.entries()) {
          const area = { offset: BigInt(offset) * 4096n, size: BigInt(size) * 4096n };
          SparseMmapArea.write(sparse, area, CapSparseMmap.size + i * SparseMmapArea.size);
        }
        const header = InfoCapHeader.size;
        const fixed = RegionInfoStruct.encode({
          flags: VFIO_REGION_INFO_FLAG_CAPS,
          index: 3,
          size: 2n ** 34n,
        });
        const bytes = chain(fixed, RegionInfoStruct.offsets.cap_offset, [
          { id: 77, body: other },
          { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, body: sparse.subarray(header) },
          { id: VFIO_REGION_INFO_CAP_TYPE, body: CapType.encode({ type, subtype }).subarray(header) },
        ]);
        expect(decodeRegionInfo(bytes).capabilities).toEqual([
          {
            id: VFIO_REGION_INFO_CAP_SPARSE_MMAP,
            areas: areas.map(([offset, size]) => ({ offset: offset * 4096, size: size * 4096 })),
          },
          { id: VFIO_REGION_INFO_CAP_TYPE, type, subtype },
        ]);
      },
    ),
  );
});

test.each([
  ['more areas than fit', { count: 2, offset: 0n, size: 4096n }, /do not fit/],
  ['a huge count', { count: 0xffff_ffff, offset: 0n, size: 4096n }, /do not fit/],
  ['an area past the region', { count: 1, offset: 4096n, size: 4096n }, /in a region of/],
  ['an area past 2^53', { count: 1, offset: 2n ** 60n, size: 0n }, /0x1000000000000000/],
])('a sparse map with %s is refused', (_what, { count, offset, size }, message) => {
  const sparse = CapSparseMmap.encode({ nr_areas: count }, SparseMmapArea.size);
  SparseMmapArea.write(sparse, { offset, size }, CapSparseMmap.size);
  const fixed = RegionInfoStruct.encode({ flags: VFIO_REGION_INFO_FLAG_CAPS, size: 4096n });
  const body = sparse.subarray(InfoCapHeader.size);
  const bytes = chain(fixed, RegionInfoStruct.offsets.cap_offset, [
    { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, body },
  ]);
  expect(() => decodeRegionInfo(bytes)).toThrowError(message);
});

test('an area may fill the last page, of which the region has only a part', () => {
  const sparse = CapSparseMmap.encode({ nr_areas: 1 }, SparseMmapArea.size);
  SparseMmapArea.write(sparse, { offset: 0n, size: 4096n }, CapSparseMmap.size);
  const fixed = RegionInfoStruct.encode({ flags: VFIO_REGION_INFO_FLAG_CAPS, size: 256n });
  const body = sparse.subarray(InfoCapHeader.size);
  const bytes = chain(fixed, RegionInfoStruct.offsets.cap_offset, [
    { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, body },
  ]);
  expect(decodeRegionInfo(bytes).capabilities).toEqual([
    { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas: [{ offset: 0, size: 4096 }] },
  ]);
});

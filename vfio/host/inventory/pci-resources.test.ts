import { expect, test } from 'vitest';
import { parsePciBars } from './pci-resources.js';

const NONE = '0x0000000000000000 0x0000000000000000 0x0000000000000000';

test('BARs are told with kind, size, address, width and prefetching, and the ROM as itself', () => {
  const lines = [
    '0x00000000febc0000 0x00000000febdffff 0x0000000000040200',
    '0x000000000000c000 0x000000000000c01f 0x0000000000040101',
    '0x0000380000000000 0x000038ffffffffff 0x000000000014220c',
    NONE,
    '0x0000000000000000 0x0000000000003fff 0x0000000020140204',
    NONE,
    '0x00000000feb80000 0x00000000febbffff 0x0000000000046200',
    '0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200', // a VF BAR, or a window
  ];
  expect(parsePciBars(`${lines.join('\n')}\n`)).toEqual([
    { index: 0, kind: 'memory', size: 0x2_0000, start: '0xfebc0000', is64Bit: false, isPrefetchable: false },
    { index: 1, kind: 'io', size: 32, start: '0xc000', is64Bit: false, isPrefetchable: false },
    { index: 2, kind: 'memory', size: 2 ** 40, start: '0x380000000000', is64Bit: true, isPrefetchable: true },
    { index: 4, kind: 'memory', size: 0x4000, start: undefined, is64Bit: true, isPrefetchable: false },
    {
      index: 'rom',
      kind: 'memory',
      size: 0x4_0000,
      start: '0xfeb80000',
      is64Bit: false,
      isPrefetchable: true,
    },
  ]);
});

test.each([
  ['an empty file', ''],
  ['other text', 'nonsense\n\n0x0 0x1 0x200\n'],
  ['a range that ends before it starts', '0x0000000000001000 0x0000000000000fff 0x0000000000000200\n'],
  ['resources that are not there', `${NONE}\n`.repeat(13)],
])('%s has no BARs', (_what, resource) => {
  expect(parsePciBars(resource)).toEqual([]);
});

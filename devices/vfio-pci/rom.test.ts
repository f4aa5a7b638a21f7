import { expect, test } from 'vitest';
import { trace } from '../../sys/trace.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import { recordTrace } from '../testing/fake-ports.js';
import { Region } from './region.js';
import { Rom } from './rom.js';

/** A ROM of `size` bytes, of which the device gives at most `most` in one read, and none from `end` on. */
function open(size: number, { most = Number.POSITIVE_INFINITY, end = size, isFailing = false } = {}) {
  const reads: [number, number][] = [];
  const file = {
    read(offset: number, data: Uint8Array) {
      const at = offset - 0x7000;
      reads.push([at, data.length]);
      if (at >= end && isFailing) throw new RangeError('no more');
      const got = Math.max(Math.min(data.length, most, end - at), 0);
      for (let i = 0; i < got; i++) data[i] = (at + i) % 251;
      return got;
    },
  };
  const info = { index: 6, flags: 1, size, offset: 0x7000, capabilities: [] };
  const region = new Region('nic', file as unknown as DeviceFile, info);
  return { reads, rom: new Rom('nic', region, 2 ** Math.ceil(Math.log2(Math.max(size, 2048)))) };
}

const read = (rom: Rom, offset: number, bytes: number): number[] => {
  const data = new Uint8Array(bytes).fill(0xee);
  rom.read(offset, data);
  return [...data];
};

test.each([
  { size: 0x800, most: undefined, reads: [[0, 0x800]] },
  {
    size: 0x1800,
    most: 0x1000,
    reads: [
      [0, 0x1800],
      [0x1000, 0x800],
    ],
  },
  { size: 0x1_0000, most: undefined, reads: [[0, 0x1_0000]] },
  {
    size: 0x1_0400,
    most: undefined,
    reads: [
      [0, 0x1_0000],
      [0x1_0000, 0x400],
    ],
  },
])('a ROM of $size bytes is read in at most 64 KiB, from where the last read ended', (row) => {
  using notes = recordTrace(trace.vfio);
  const { rom, reads } = open(row.size, row.most === undefined ? {} : { most: row.most });
  using _ = rom;
  expect(reads).toEqual([]);
  const last = row.size - 1;
  expect(read(rom, last - 1, 2)).toEqual([(last - 1) % 251, last % 251]);
  expect(read(rom, 3, 4)).toEqual([3, 4, 5, 6]);
  expect(reads).toEqual(row.reads);
  expect(notes.events).toEqual([]);
});

test.each([
  { isFailing: false, why: 'the device ends it there' },
  { isFailing: true, why: 'no more' },
])(
  'past the last byte that the device gives, a ROM is all-ones, with one note: $why',
  ({ isFailing, why }) => {
    using notes = recordTrace(trace.vfio);
    const { rom, reads } = open(0x1800, { end: 0x1002, isFailing });
    using _ = rom;
    expect(read(rom, 0x1000, 4)).toEqual([0x1000 % 251, 0x1001 % 251, 0xff, 0xff]);
    expect(read(rom, 0x17fe, 4)).toEqual([0xff, 0xff, 0xff, 0xff]);
    expect(reads).toEqual([
      [0, 0x1800],
      [0x1002, 0x7fe],
    ]);
    expect(notes.events).toEqual([
      { device: 'nic', what: 'rom', text: `the ROM reads as all-ones from 0x1002 on: ${why}` },
    ]);
  },
);

test('a read ends with the BAR, and its copy with whole pages', () => {
  const { rom } = open(0x800);
  using _ = rom;
  expect(rom.copy.bytes).toBe(0x1000);
  expect(rom.copy).toBe(rom.copy);
  expect(read(rom, 0x7fe, 4)).toEqual([0x7fe % 251, 0x7ff % 251, 0xee, 0xee]);
  expect(read(rom, 0x7ff, 1)).toEqual([0x7ff % 251]);
  expect(read(rom, 0x800, 2)).toEqual([0xee, 0xee]);
  expect(read(rom, 0xffe, 2)).toEqual([0xee, 0xee]);
  rom.write();
  expect(read(rom, 0, 2)).toEqual([0, 1]);
});

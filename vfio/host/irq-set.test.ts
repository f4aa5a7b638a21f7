import { expect, test } from 'vitest';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
} from '../uapi.js';
import { encodeIrqSet } from './irq-set.js';

const TRIGGER = VFIO_IRQ_SET_ACTION_TRIGGER;
const EVENTFDS = VFIO_IRQ_SET_DATA_EVENTFD | TRIGGER;
const BOOLS = VFIO_IRQ_SET_DATA_BOOL | TRIGGER;
const NONE = VFIO_IRQ_SET_DATA_NONE | TRIGGER;
const set = { index: 2, start: 1, count: 1 };

/** The 32-bit words of the encoded structure: argsz, flags, index, start, count, data. */
const words = (bytes: Uint8Array): number[] => [...new Int32Array(bytes.slice().buffer)];

test('descriptors are 4 bytes each, flags of booleans 1 byte, and no data none', () => {
  expect(words(encodeIrqSet({ ...set, flags: EVENTFDS, count: 3, data: [7, -1, 0x7fff_ffff] }, 'x'))).toEqual(
    [...[32, EVENTFDS, 2, 1, 3], ...[7, -1, 0x7fff_ffff]],
  );
  const bools = encodeIrqSet({ ...set, flags: BOOLS, count: 3, data: [1, 0, 1] }, 'x');
  expect([...bools.subarray(0, 4), ...bools.subarray(20)]).toEqual([23, 0, 0, 0, 1, 0, 1]);
  expect(words(encodeIrqSet({ ...set, flags: NONE, count: 5 }, 'x'))).toEqual([20, NONE, 2, 1, 5]);
});

test('values beyond the count are not sent', () => {
  const data = [5, 6, 7];
  expect(words(encodeIrqSet({ ...set, flags: EVENTFDS, data }, 'x'))).toEqual([24, EVENTFDS, 2, 1, 1, 5]);
  expect(words(encodeIrqSet({ ...set, flags: NONE, data }, 'x'))).toEqual([20, NONE, 2, 1, 1]);
});

test.each([
  { what: 'all of 4096 values', part: { flags: BOOLS, count: 4096, data: new Array(4096).fill(1) } },
  { what: 'the largest index', part: { flags: NONE, index: 0xffff_ffff } },
  { what: 'the largest start', part: { flags: NONE, start: 0xffff_ffff } },
  { what: 'the largest count', part: { flags: NONE, count: 0xffff_ffff } },
  { what: 'a count of 0', part: { flags: EVENTFDS, count: 0, data: [] } },
])('$what can be encoded', ({ part }) => {
  expect(encodeIrqSet({ ...set, ...part }, 'x').length).toBeGreaterThanOrEqual(20);
});

test.each([
  { what: '4097 values', part: { flags: BOOLS, count: 4096, data: new Array(4097).fill(1) } },
  { what: 'one value too few', part: { flags: BOOLS, count: 2, data: [1] } },
  { what: 'an index of 33 bits', part: { flags: NONE, index: 0x1_0000_0000 } },
  { what: 'a negative count', part: { flags: NONE, count: -1 } },
  { what: 'a fraction of an index', part: { flags: NONE, index: 0.5 } },
  { what: 'flags of 33 bits', part: { flags: 0x1_0000_0000 } },
  { what: 'a descriptor of 32 bits', part: { flags: EVENTFDS, data: [0x8000_0000] } },
  { what: 'descriptor -2', part: { flags: EVENTFDS, data: [-2] } },
  { what: 'a boolean of 2', part: { flags: BOOLS, data: [2] } },
  { what: 'a boolean of -1', part: { flags: BOOLS, data: [-1] } },
  { what: 'half a boolean', part: { flags: BOOLS, data: [0.5] } },
  { what: 'a wrong value after a right one', part: { flags: BOOLS, count: 2, data: [1, 2] } },
])('$what is EINVAL before the kernel sees it', ({ part }) => {
  expect(() => encodeIrqSet({ ...set, ...part }, 'nic')).toThrow(/^VFIO_DEVICE_SET_IRQS on nic: EINVAL/);
});

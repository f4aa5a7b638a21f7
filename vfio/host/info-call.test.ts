import { expect, test } from 'vitest';
import type { Request } from '../../sys/ioctl.js';
import { infoIoctl } from './info-call.js';
import { GroupStatus, VFIO_GROUP_GET_STATUS } from './structs.js';
import type { SystemFile } from './system.js';

/** A file whose info ioctl asks for `sizes` one call after the other. */
function answering(sizes: readonly number[]): { file: SystemFile; given: number[] } {
  const given: number[] = [];
  const file: SystemFile = {
    target: 'device',
    fd: 5,
    ioctl(_request: Request, argument = 0) {
      const bytes = argument as Uint8Array;
      const view = new DataView(bytes.buffer);
      expect(view.getUint32(4, true)).toBe(77); // the input field comes with every call
      expect(view.getUint32(0, true)).toBe(bytes.length);
      given.push(bytes.length);
      view.setUint32(0, sizes[given.length - 1] ?? bytes.length, true);
      return 0;
    },
    pread: () => 0,
    pwrite: () => 0,
    mmap: () => {
      throw new Error('not used here');
    },
    [Symbol.dispose]: () => undefined,
  };
  return { file, given };
}

const ask = (file: SystemFile): Uint8Array =>
  infoIoctl(file, VFIO_GROUP_GET_STATUS, GroupStatus.encode({ flags: 77 }));

test.each([
  ['fits', [8], [8]],
  ['is left as it was by an old kernel that does not write argsz', [], [8]],
  ['is shorter than the structure', [4], [8]],
  ['needs more', [100, 100], [8, 100]],
  ['has grown meanwhile', [100, 200, 200], [8, 100, 200]],
])('an answer that %s is taken', (_what, sizes, expected) => {
  const { file, given } = answering(sizes);
  expect(ask(file)).toHaveLength(expected.at(-1) as number);
  expect(given).toEqual(expected);
});

test('an answer that grows with every call is given up', () => {
  const { file, given } = answering([16, 32, 64, 128, 256]);
  expect(() => ask(file)).toThrowError(
    /^VFIO_GROUP_GET_STATUS on device: EPROTO\n.*still grew after 4 calls/,
  );
  expect(given).toHaveLength(4);
});

test('an answer of 1 MiB is made room for, one byte more is not', () => {
  const least = answering([2 ** 20]);
  expect(ask(least.file)).toHaveLength(2 ** 20);
  const { file, given } = answering([2 ** 20 + 1]);
  expect(() => ask(file)).toThrowError(/EPROTO\n.*the reply is 1048577 bytes long/);
  expect(given).toEqual([8]);
});

test('an answer of 4 GiB is not made room for', () => {
  const { file, given } = answering([0xffff_ffff]);
  expect(() => ask(file)).toThrowError(/EPROTO\n.*the reply is 4294967295 bytes long/);
  expect(given).toEqual([8]);
});

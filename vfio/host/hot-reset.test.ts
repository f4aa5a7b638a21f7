import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { GroupFile } from '../uapi.js';
import { getPciHotResetInfo, pciHotReset } from './hot-reset.js';
import { PciDependentDevice, PciHotResetInfo } from './structs.js';
import type { SystemFile } from './system.js';

const BY_ID = 1;
const OWNED = 2;

/** A file whose ioctl is `answer`; it records the sizes of the structures. */
function file(answer: (bytes: Uint8Array, round: number) => void): { file: SystemFile; sizes: number[] } {
  const sizes: number[] = [];
  const made = {
    target: 'nic',
    ioctl: (_request: unknown, bytes: Uint8Array) => {
      expect(new DataView(bytes.buffer).getUint32(0, true)).toBe(bytes.length);
      sizes.push(bytes.length);
      answer(bytes, sizes.length);
      return 0;
    },
  };
  return { file: made as unknown as SystemFile, sizes };
}
const refuse = (code: keyof typeof errno): SysError =>
  new SysError({ call: 'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO', target: 'nic', errno: errno[code] });

type Row = readonly [id: number, segment: number, bus: number, devfn: number];
function fill(bytes: Uint8Array, flags: number, rows: readonly Row[]): void {
  PciHotResetInfo.write(bytes, { flags, count: rows.length });
  for (const [i, [group_id, segment, bus, devfn]] of rows.entries()) {
    const at = PciHotResetInfo.size + i * PciDependentDevice.size;
    PciDependentDevice.write(bytes, { group_id, segment, bus, devfn }, at);
  }
}
/** Answers as the kernel: ENOSPC with the count until the list fits. */
const answering = (flags: number, rows: readonly Row[]) => (bytes: Uint8Array) => {
  const room = (bytes.length - PciHotResetInfo.size) / PciDependentDevice.size;
  PciHotResetInfo.write(bytes, { count: rows.length });
  if (room < rows.length) throw refuse('ENOSPC');
  fill(bytes, flags, rows);
};

const rows: readonly Row[] = [
  [26, 0, 1, 0],
  [27, 0xabcd, 0xff, 0xfb],
];

test('of a group, each function has its address and its group', () => {
  const { file: nic, sizes } = file(answering(0, rows));
  expect(getPciHotResetInfo(nic)).toEqual({
    devices: [
      { address: '0000:01:00.0', group: 26 },
      { address: 'abcd:ff:1f.3', group: 27 },
    ],
  });
  expect(sizes).toEqual([PciHotResetInfo.size, PciHotResetInfo.size + 2 * PciDependentDevice.size]);
});

test.each([
  { flags: BY_ID | OWNED, isOwned: true },
  { flags: BY_ID, isOwned: false },
])('of a cdev, each function has its id, and who owns it (flags $flags)', ({ flags, isOwned }) => {
  const ids: readonly Row[] = [
    [3, 0, 1, 0],
    [0, 0, 1, 1],
    [0xffff_ffff, 0, 1, 2],
  ];
  expect(getPciHotResetInfo(file(answering(flags, ids)).file)).toEqual({
    devices: [
      { address: '0000:01:00.0', devid: 3, isOwned: true },
      { address: '0000:01:00.1', devid: 0, isOwned: true },
      { address: '0000:01:00.2', devid: 0xffff_ffff, isOwned: false },
    ],
    isOwned,
  });
});

test('a list of 4096 functions is read, one more is the kernel’s error', () => {
  const list = (count: number): Row[] => Array.from({ length: count }, () => [1, 0, 0, 0]);
  expect(getPciHotResetInfo(file(answering(0, list(4096))).file).devices).toHaveLength(4096);
  const { file: nic, sizes } = file(answering(0, list(4097)));
  expect(() => getPciHotResetInfo(nic)).toThrow(/ENOSPC/);
  expect(sizes).toHaveLength(1);
});

test('a list that grows is read again, four times at most', () => {
  const grows = (until: number) => (bytes: Uint8Array, round: number) => {
    if (round < until) {
      PciHotResetInfo.write(bytes, { count: round });
      throw refuse('ENOSPC');
    }
    fill(bytes, 0, rows.slice(0, 1));
  };
  const third = file(grows(4));
  expect(getPciHotResetInfo(third.file).devices).toHaveLength(1);
  const rooms = third.sizes.map((size) => (size - PciHotResetInfo.size) / PciDependentDevice.size);
  expect(rooms).toEqual([0, 1, 2, 3]);
  const endless = file(grows(5));
  expect(() => getPciHotResetInfo(endless.file)).toThrow(
    /^VFIO_DEVICE_GET_PCI_HOT_RESET_INFO on nic: EPROTO/,
  );
  expect(endless.sizes).toHaveLength(4);
});

test('ENOSPC with a count that was given room is asked again with more; other errors are the kernel’s', () => {
  const none = file(() => {
    throw refuse('ENOSPC');
  });
  expect(() => getPciHotResetInfo(none.file)).toThrow(/EPROTO/);
  expect(none.sizes.map((size) => (size - PciHotResetInfo.size) / PciDependentDevice.size)).toEqual([
    0, 1, 2, 3,
  ]);
  const gone = file(() => {
    throw refuse('ENODEV');
  });
  expect(() => getPciHotResetInfo(gone.file)).toThrow(/ENODEV/);
  expect(gone.sizes).toHaveLength(1);
});

test('a count without its list is a malformed reply', () => {
  const { file: nic } = file((bytes) => PciHotResetInfo.write(bytes, { count: 1 }));
  expect(() => getPciHotResetInfo(nic)).toThrow(/EPROTO\n.*malformed/);
});

test('a reset is asked for with the descriptors of the groups, in order; none for a cdev', () => {
  const group = (fd: number | undefined): GroupFile => ({ target: `group ${fd}`, fd }) as GroupFile;
  const asked: number[][] = [];
  const { file: nic } = file((bytes) => {
    asked.push([...new Int32Array(bytes.slice().buffer)]);
  });
  pciHotReset(nic, [group(12), group(11)]);
  pciHotReset(nic, []);
  expect(asked).toEqual([
    [20, 0, 2, 12, 11],
    [12, 0, 0],
  ]);
  expect(() => pciHotReset(nic, [group(12), group(undefined)])).toThrow(
    /^VFIO_DEVICE_PCI_HOT_RESET on nic: EBADF\n.*group undefined is not a group of the kernel/,
  );
  expect(asked).toHaveLength(2);
});

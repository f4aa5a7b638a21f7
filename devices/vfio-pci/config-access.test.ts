import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { regionOffset } from '../../vfio/region-layout.js';
import { VFIO_PCI_CONFIG_REGION_INDEX } from '../../vfio/uapi.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { readMsixShape } from './msix.js';
import { createScriptedNic, nicMsix, nicOffsets } from './scripted-nic.js';

test('the device’s configuration space is accessed in aligned units of 1, 2 or 4 bytes, as a host requires', () => {
  using scope = new Scope();
  using recorded = recordTrace(trace.region);
  const nic = scope.own(createScriptedNic());
  const device = VfioPciDevice.open('nic', nic, fakeEnvironment(), { routeIntx: () => 11 });
  for (const bytes of [1, 2, 4]) {
    for (let at = 0; at < 4096; at += bytes) device.configWrite(at, bytes, device.configRead(at, bytes));
  }
  device.configWrite(4, 2, 6);
  device.reset();
  device[Symbol.dispose]();
  const accesses = recorded.events.filter(({ region }) => region === VFIO_PCI_CONFIG_REGION_INDEX);
  expect(accesses.length).toBeGreaterThan(500);
  const odd = accesses.filter(({ address, bytes }) => ![1, 2, 4].includes(bytes) || address % bytes !== 0);
  expect(odd).toEqual([]);
});

test('a device that is detached has nothing to report of it, whether its ROM was read or not', () => {
  for (const isRead of [false, true]) {
    using scope = new Scope();
    using recorded = recordTrace(trace.vfio);
    const nic = scope.own(createScriptedNic());
    const device = VfioPciDevice.open('nic', nic, fakeEnvironment(), { routeIntx: () => 11 });
    if (isRead) {
      device.configWrite(0x30, 4, 0xe000_0001);
      device.configWrite(4, 2, 2);
    }
    device[Symbol.dispose]();
    expect(recorded.events.filter(({ what }) => what === 'close')).toEqual([]);
  }
});

test.each([
  { flags: 0x0000, vectors: 1, pbaBytes: 8 },
  { flags: 0x003f, vectors: 64, pbaBytes: 8 },
  { flags: 0x0040, vectors: 65, pbaBytes: 16 },
  { flags: 0xc7ff, vectors: 2048, pbaBytes: 256 },
])('MSI-X control $flags is of $vectors vectors, with $pbaBytes bytes of pending bits', (row) => {
  const registers: Readonly<Record<string, number>> = {
    '0x42 2': row.flags,
    '0x44 4': 0xffff_f003,
    '0x48 4': 0x0000_2005,
  };
  const shape = readMsixShape((at, bytes) => {
    const value = registers[`0x${at.toString(16)} ${bytes}`];
    if (value === undefined) throw new RangeError(`${bytes} bytes at 0x${at.toString(16)}`);
    return value;
  }, 0x40);
  expect(shape).toEqual({
    vectors: row.vectors,
    table: { bar: 3, offset: 0xffff_f000, size: row.vectors * 16 },
    pba: { bar: 5, offset: 0x2000, size: row.pbaBytes },
  });
});

test('the scripted card’s table is where its capability says', () => {
  const { config } = createScriptedNic();
  const view = new DataView(config.buffer);
  const { vectors, table, pba } = readMsixShape((at, bytes) => {
    if (bytes === 4) return view.getUint32(at, true);
    return bytes === 2 ? view.getUint16(at, true) : view.getUint8(at);
  }, nicOffsets.msix);
  expect([vectors, table.bar, table.offset, pba.offset]).toEqual([
    nicMsix.vectors,
    nicMsix.bar,
    nicMsix.table,
    nicMsix.pba,
  ]);
  expect(regionOffset(nicMsix.bar)).toBe(nicMsix.bar * 2 ** 40);
});

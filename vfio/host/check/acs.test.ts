import { expect, test } from 'vitest';
import { CheckWorld } from '../testing/check-world.js';
import { acsOf, describeAcs } from './acs.js';

const PORT = '0000:00:1c.0';

/** A configuration space with extended capabilities: ID and place, in order; `control` is that of ACS. */
function config(capabilities: readonly (readonly [id: number, at: number])[], control = 0): Uint8Array {
  const bytes = new Uint8Array(4096);
  const view = new DataView(bytes.buffer);
  for (const [i, [id, at]] of capabilities.entries()) {
    const next = capabilities[i + 1]?.[1] ?? 0;
    view.setUint32(at, id | (1 << 16) | (next << 20), true);
    if (id === 0x0d) view.setUint16(at + 6, control, true);
  }
  return bytes;
}

const AER = [0x01, 0x100] as const;
const ACS = [0x0d, 0x140] as const;

test.each([
  ['all of it on', config([AER, ACS], 0x1d), /ACS\) is on$/],
  ['more of it on', config([AER, ACS], 0x5f), /ACS\) is on$/],
  ['a bit of it off', config([AER, ACS], 0x1c), /ACS\) is off \(control 0x1c\)$/],
  ['none of it', config([AER]), /has no access control/],
  ['it as the first capability', config([[0x0d, 0x100]], 0x1d), /ACS\) is on$/],
  ['no capability at all', config([]), /has no access control/],
  [
    'a list that is a circle',
    config([
      [0x01, 0x100],
      [0x02, 0x140],
      [0x01, 0x100],
    ]),
    /has no access control/,
  ],
  [
    'a place beyond the end',
    config([
      [0x01, 0x100],
      [0x0d, 0xff4],
    ]).subarray(0, 0xf00),
    /has no access control/,
  ],
  ['what a user without rights may read', config([ACS]).subarray(0, 64), /shown to root only$/],
])('a port with %s says so', (_what, bytes, text) => {
  expect(describeAcs(bytes)).toMatch(text);
});

test('each port above the devices is asked once, and the root bus is none', () => {
  using world = new CheckWorld();
  world.addSlot(PORT, { '05:00.0': 'pm', '05:00.1': 'pm' });
  world.host.file(`sys/devices/pci0000:00/${PORT}/config`, config([AER, ACS], 0x1d));
  const devices = ['0000:05:00.0', '0000:05:00.1'].map((address) => world.host.sysfs.pciDevice(address));
  const source = `${world.host.sysfs.pciDevice(PORT).path}/config`;
  expect(acsOf(devices)).toEqual([{ source, said: 'access control (ACS) is on' }]);
  expect(acsOf([world.host.sysfs.pciDevice(PORT)])).toEqual([]);
  world.host.remove(`sys/devices/pci0000:00/${PORT}/config`);
  expect(acsOf(devices)).toEqual([{ source, said: 'cannot be read' }]);
});

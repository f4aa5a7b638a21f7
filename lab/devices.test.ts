import { describe, expect, test } from 'vitest';
import {
  addressVariable,
  deviceArguments,
  deviceNames,
  deviceTable,
  parseDevices,
  pciAddresses,
} from './devices.js';

describe('devices', () => {
  test('no two rows share a slot', () => {
    const slots = Object.values(deviceTable).map(({ slot }) => slot);
    expect(new Set(slots).size).toBe(slots.length);
  });

  test('a device on the root bus is at its slot, one below a port on that port’s bus', () => {
    expect(Object.fromEntries(pciAddresses(['e1000e-port', 'nvme', 'igb']))).toEqual({
      nvme: '0000:00:13.0',
      igb: '0000:01:00.0',
      'e1000e-port': '0000:02:00.0',
    });
    expect(pciAddresses(['e1000e-port']).get('e1000e-port')).toBe('0000:01:00.0');
  });

  test('each kind of device gets its arguments', () => {
    expect(deviceArguments(['igb', 'nvme', 'edu'], (name) => `/run/${name}.img`)).toEqual([
      '-device',
      'pcie-root-port,id=igb-port,chassis=18,bus=pcie.0,addr=12',
      '-netdev',
      'user,id=igb-net',
      '-device',
      'igb,id=igb,bus=igb-port,netdev=igb-net,mac=52:54:00:12:34:12',
      '-drive',
      'if=none,id=nvme-disk,format=raw,file=/run/nvme.img',
      '-device',
      'nvme,serial=lab,id=nvme,bus=pcie.0,addr=13,drive=nvme-disk',
      '-device',
      'edu,id=edu,bus=pcie.0,addr=14',
    ]);
  });

  test('a variable name is valid in a shell', () => {
    for (const name of deviceNames) expect(addressVariable(name)).toMatch(/^LAB_[A-Z0-9_]+$/);
  });

  test('an unknown device is rejected with the list of available ones', () => {
    expect(parseDevices('igb,edu')).toEqual(['igb', 'edu']);
    expect(parseDevices('all')).toEqual(deviceNames);
    expect(() => parseDevices('igb,floppy')).toThrow(/'floppy'[\s\S]*virtio-net/);
  });
});

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
  test('no two rows are the same function, and functions of one slot are behind the same port', () => {
    const rows = deviceNames.map((name) => ({ fn: 0, behindPort: false, ...deviceTable[name] }));
    expect(new Set(rows.map(({ slot, fn }) => `${slot}.${fn}`)).size).toBe(rows.length);
    for (const { slot, fn } of rows.filter(({ fn }) => fn > 0)) {
      expect(fn).toBeLessThan(8);
      expect(rows.filter((row) => row.slot === slot).every(({ behindPort }) => behindPort)).toBe(true);
    }
  });

  test('a device on the root bus is at its slot, one below a port on that port’s bus', () => {
    expect(Object.fromEntries(pciAddresses(['e1000e-port', 'nvme', 'igb']))).toEqual({
      nvme: '0000:00:13.0',
      igb: '0000:01:00.0',
      'e1000e-port': '0000:02:00.0',
    });
    expect(pciAddresses(['e1000e-port']).get('e1000e-port')).toBe('0000:01:00.0');
  });

  test('the functions of one device share its port and bus', () => {
    expect([...pciAddresses(['pair', 'igb', 'pair-1']).values()]).toEqual([
      '0000:02:00.0',
      '0000:01:00.0',
      '0000:02:00.1',
    ]);
    const args = deviceArguments(['pair', 'pair-1'], String);
    expect(args.filter((arg) => arg.startsWith('pcie-root-port'))).toEqual([
      'pcie-root-port,id=pair-port,chassis=22,bus=pcie.0,addr=16',
    ]);
    expect(args).toContain(
      'e1000,id=pair,bus=pair-port,addr=0.0,multifunction=on,netdev=pair-net,mac=52:54:00:12:34:16',
    );
    expect(args).toContain(
      'e1000,id=pair-1,bus=pair-port,addr=0.1,multifunction=on,netdev=pair-1-net,mac=52:54:00:12:35:16',
    );
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

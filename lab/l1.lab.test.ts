import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, realpathSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { addressVariable, type DeviceName, deviceNames } from './devices.js';

const ids: Record<DeviceName, string> = {
  e1000e: '0x8086 0x10d3',
  'virtio-net': '0x1af4 0x1041',
  igb: '0x8086 0x10c9',
  nvme: '0x1b36 0x0010',
  edu: '0x1234 0x11e8',
  'e1000e-port': '0x8086 0x10d3',
  pair: '0x8086 0x100e',
  'pair-1': '0x8086 0x100e',
  xhci: '0x1b36 0x000d',
  rtl8139: '0x10ec 0x8139',
};

const present = deviceNames.filter((name) => process.env[addressVariable(name)] !== undefined);

describe('L1', () => {
  test('has a KVM that programs may open', () => {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  });

  test.each(present)('has %s at the address in its variable, in an IOMMU group', (name) => {
    const device = `/sys/bus/pci/devices/${process.env[addressVariable(name)]}`;
    const read = (file: string): string => readFileSync(`${device}/${file}`, 'utf8').trim();
    expect(`${read('vendor')} ${read('device')}`).toBe(ids[name]);
    expect(existsSync(`${device}/iommu_group`)).toBe(true);
  });

  test('loads VFIO with the group, the container and the iommufd interface', () => {
    execFileSync('vfio-load');
    expect(existsSync('/dev/vfio/vfio')).toBe(true);
    expect(existsSync('/dev/iommu')).toBe(true);
  });

  test('binds a device to vfio-pci and back', () => {
    const address = process.env.LAB_E1000E!;
    const driver = `/sys/bus/pci/devices/${address}/driver`;
    execFileSync('vfio-bind', [address]);
    expect(realpathSync(driver)).toBe('/sys/bus/pci/drivers/vfio-pci');
    expect(existsSync(`/sys/bus/pci/devices/${address}/vfio-dev`)).toBe(true);
    execFileSync('vfio-unbind', [address]);
    expect(existsSync(driver)).toBe(false);
  });

  test('reaches the monitor of the QEMU around it', () => {
    expect(execFileSync('hmp', ['info', 'pci'], { encoding: 'utf8' })).toContain('PCI device 8086:10d3');
    expect(execFileSync('hmp', ['no-such-command'], { encoding: 'utf8' })).toContain('unknown command');
  });

  test('creates and removes a mediated device of each sample driver', () => {
    for (const type of ['mtty-2', 'mdpy-xga', 'mbochs-small']) {
      const uuid = execFileSync('mdev-create', [type], { encoding: 'utf8' }).trim();
      expect(existsSync(`/sys/bus/mdev/devices/${uuid}/iommu_group`)).toBe(true);
      execFileSync('sh', ['-c', `echo 1 > /sys/bus/mdev/devices/${uuid}/remove`]);
      expect(existsSync(`/sys/bus/mdev/devices/${uuid}`)).toBe(false);
    }
  });
});

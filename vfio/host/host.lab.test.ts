import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, VFIO_DEVICE_FEATURE_SET } from '../feature.js';
import { vfioConformance } from '../testing/conformance.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import type { HostDeviceFile } from './device.js';
import { hostProvider } from './provider.js';
import { Sysfs } from './sysfs.js';

// Set by the lab; without them this is not L1.
const { LAB_E1000E: NIC, LAB_EDU: EDU, LAB_IGB: IGB } = process.env;
const MODES = [
  ['by groups', { hasCdev: false }],
  ['by cdev', { hasGroups: false }],
  ['by both', {}],
] as const;

describe.skipIf(NIC === undefined || EDU === undefined)('the host provider on the real kernel', () => {
  const provider = hostProvider();
  const sysfs = new Sysfs();
  let memory: Mapping | undefined;
  beforeAll(() => {
    memory = Mapping.anonymous(16 * 4096);
    execFileSync('vfio-load');
    execFileSync('modprobe', ['-a', 'mtty', 'mdpy', 'mbochs']);
  });
  afterAll(() => memory?.[Symbol.dispose]());

  const devices: [string, Record<string, string>][] = [
    [NIC ?? '', { bind: 'vfio-pci' }],
    [EDU ?? '', { bind: 'vfio-pci' }],
    ['mdev:mtty-2', {}],
    ['mdev:mdpy-xga', {}],
    ['mdev:mbochs-small', {}],
  ];
  for (const [address, options] of devices) {
    for (const [mode, how] of MODES) {
      describe(`conformance of ${address} ${mode}`, () => {
        const target = {
          provider,
          address,
          options,
          unusedGroup: 9999,
          ...how,
          get memory() {
            return memory as Mapping;
          },
        };
        for (const { name, run } of vfioConformance(target)) test(name, run);
      });
    }
  }

  test('a device that the host drives is refused, taken by option bind, and given back', () => {
    execFileSync('modprobe', ['e1000e']);
    const address = NIC as string;
    expect(sysfs.pciDevice(address).driver).toBe('e1000e');
    expect(() => provider.resolve(address, {})).toThrowError(
      /EBUSY\n {2}hint: the host uses it \(driver e1000e\)/,
    );
    {
      using device = provider.resolve(address, { bind: 'vfio-pci' });
      expect(device.description).toContain('driver vfio-pci');
    }
    expect(sysfs.pciDevice(address).driver).toBe('e1000e');
  });

  test('a group that is open names this process as its holder', () => {
    using device = provider.resolve(EDU as string, { bind: 'vfio-pci' });
    using _group = provider.groups.openGroup(device.group);
    expect(() => provider.groups.openGroup(device.group)).toThrowError(
      /EBUSY\n.*held by this process itself/,
    );
  });

  test.skipIf(IGB === undefined)(
    'a physical function takes a token, without which its VF stays closed',
    () => {
      const address = IGB as string;
      const token = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
      sysfs.write('/sys/module/vfio_pci/parameters/enable_sriov', '1');
      using scope = new Scope();
      const open = (name: string, group: number): HostDeviceFile => {
        const container = scope.own(provider.groups.openContainer());
        const file = scope.own(provider.groups.openGroup(group));
        file.setContainer(container);
        container.setIommu(VFIO_TYPE1v2_IOMMU);
        return scope.own(file.getDeviceFd(name)) as HostDeviceFile;
      };
      const pf = scope.own(provider.resolve(address, { bind: 'vfio-pci' }));
      const file = open(pf.name, pf.group);
      expect(file.probeFeature(VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, VFIO_DEVICE_FEATURE_SET)).toBe(true);
      const count = `${sysfs.pciDevice(address).path}/sriov_numvfs`;
      sysfs.write(count, '1');
      scope.defer(() => sysfs.write(count, '0'));
      file.setVfToken(token);
      const [vf] = sysfs.pciDevice(address).virtfns as [string];
      const plain = provider.resolve(vf, {});
      {
        using inner = new Scope();
        const container = inner.own(provider.groups.openContainer());
        const group = inner.own(provider.groups.openGroup(plain.group));
        group.setContainer(container);
        container.setIommu(VFIO_TYPE1v2_IOMMU);
        expect(() => group.getDeviceFd(plain.name)).toThrowError(/EACCES\n.*vf-token/);
      }
      const allowed = scope.own(provider.resolve(vf, { 'vf-token': token }));
      expect(open(allowed.name, allowed.group).getInfo().numRegions).toBe(9);
    },
  );
});

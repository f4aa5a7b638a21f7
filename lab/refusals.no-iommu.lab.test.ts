/** Refusals on a machine without an IOMMU. */
import { execFileSync } from 'node:child_process';
import { beforeAll, describe, expect, test } from 'vitest';
import { Scope } from '../sys/scope.js';
import { hostProvider } from '../vfio/host/index.js';
import { VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.js';
import { failingRules, tsvisorRun } from './command-line.js';

const { LAB_E1000E: NIC = '' } = process.env;
const UNAVAILABLE = 69;

describe.skipIf(NIC === '')('without an IOMMU', () => {
  test('a device is refused with the option to enable', () => {
    const { status, error } = tsvisorRun(['--device', NIC]);
    expect(error).toMatch(
      new RegExp(`^tsvisor: attach on ${NIC}: ENODEV\\n  hint: no IOMMU translates its DMA`),
    );
    expect(error).toMatch(/VT-d or AMD-Vi .*intel_iommu=on/);
    expect(status).toBe(UNAVAILABLE);
    const { iommu } = failingRules([NIC]);
    expect(iommu?.text).toBe('no IOMMU translates its DMA');
    expect(iommu?.advice).toMatch(/virtual IOMMU|firmware/);
  });

  describe('and in no-IOMMU mode', () => {
    beforeAll(() => {
      execFileSync('vfio-load', ['noiommu']);
      execFileSync('modprobe', ['mtty']);
      execFileSync('vfio-bind', [NIC]);
    });

    test('a device is for user-space drivers only, and refused for guests', () => {
      const { status, error } = tsvisorRun(['--device', NIC]);
      expect(error).toMatch(new RegExp(`attach on ${NIC}: EPERM\\n.*no IOMMU translates its DMA`));
      expect(status).toBe(UNAVAILABLE);
      expect(failingRules([NIC]).iommu?.text).toMatch(/VFIO made group \d+ for want of one/);
      expect(failingRules(['mdev:mtty-2'])).toEqual({});
      // Nor together with a mediated device, which needs no IOMMU and works alone.
      const both = tsvisorRun(['--device', 'mdev:mtty-2', '--device', NIC]);
      expect(both.error).toMatch(new RegExp(`attach on ${NIC}: EPERM`));
      expect(tsvisorRun(['--device', 'mdev:mtty-2']).status).toBe(2);
    });

    test('its group cannot share a container with another group, and the kernel’s EPERM is explained', () => {
      const provider = hostProvider();
      using scope = new Scope();
      const mdev = scope.own(provider.resolve('mdev:mtty-2', {}));
      const nic = scope.own(provider.resolve(NIC, {}));
      expect(nic.isNoiommu).toBe(true);
      const container = scope.own(provider.groups.openContainer());
      const group = scope.own(provider.groups.openGroup(mdev.group));
      group.setContainer(container);
      container.setIommu(VFIO_TYPE1v2_IOMMU);
      const unguarded = scope.own(provider.groups.openGroup(nic.group));
      expect(() => unguarded.setContainer(container)).toThrowError(
        /VFIO_GROUP_SET_CONTAINER on \/dev\/vfio\/noiommu-\d+: EPERM\n.*cannot share a container/,
      );
      group.unsetContainer();
    });
  });
});

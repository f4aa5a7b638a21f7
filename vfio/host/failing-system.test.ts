import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import { hostProvider } from './index.js';
import { FailingSystem, FakeHost, FakeKernel, parseSystemFailures } from './testing/index.js';

const A = '0000:01:00.0';

function host(scope: Scope) {
  const fake = scope.own(FakeHost.create());
  const kernel = new FakeKernel(fake.roots.dev);
  fake.addPci({ address: A, driver: 'vfio-pci', group: 26, cdev: 'vfio26' });
  kernel.addDevice({ name: A, group: 26, cdev: 'vfio26', flags: 3, regions: [], irqs: [] });
  const system = new FailingSystem(kernel);
  return { kernel, system, provider: hostProvider({ system, sysfs: fake.sysfs, roots: fake.roots }) };
}

describe('a system whose calls fail', () => {
  test('fails the nth call of a name alone, with the hint of its request, and the kernel hears nothing of it', () => {
    using scope = new Scope();
    const { kernel, system, provider } = host(scope);
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(26));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    const device = scope.own(group.getDeviceFd(A));
    system.fail(parseSystemFailures('VFIO_DEVICE_RESET:EINVAL:2+open:EMFILE'));
    device.reset();
    expect(() => device.reset()).toThrowError(
      `VFIO_DEVICE_RESET on ${A}: EINVAL\n  hint: the device has no reset of its own`,
    );
    device.reset();
    expect(kernel.devices[0]?.resets).toBe(2);
    expect(() => provider.groups.openContainer()).toThrowError(/^open on .*\/vfio: EMFILE/);
    expect(() => provider.groups.openContainer()).toThrowError(/EMFILE/);
    expect(system.calls).toEqual([...Array(3).fill('VFIO_DEVICE_RESET'), 'open', 'open']);
    system.fail([]);
    scope.own(provider.groups.openContainer());
  });

  test.each(['VFIO_DEVICE_RESET', 'VFIO_DEVICE_RESET:EWRONG', ':EIO', 'reset:EIO:x', ''])(
    'is not made of %j',
    (text) => {
      expect(() => parseSystemFailures(text)).toThrowError(/not CALL:ERRNO\[:NTH\]/);
    },
  );
});

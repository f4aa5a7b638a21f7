/**
 * For tests: the kernel's devices, some of whose calls fail as TSVISOR_TEST_FAIL says: `VFIO_DEVICE_RESET:EIO:1`. Other
 * providers are not there.
 */
import { hostProvider } from '../../vfio/host/index.js';
import { FailingSystem, parseSystemFailures } from '../../vfio/host/testing/index.js';
import { VfioProvider } from '../../vfio/provider.js';
import type { Plugin } from '../plugin.js';

export const plugin: Plugin = {
  name: 'failing-host',
  configure(container) {
    const system = new FailingSystem();
    system.fail(parseSystemFailures(process.env.TSVISOR_TEST_FAIL ?? ''));
    container.register(VfioProvider, { useValue: hostProvider({ system }) });
  },
};

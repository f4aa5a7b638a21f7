/** For tests: the providers of a machine, whose devices nobody opens. */
import { expect } from 'vitest';
import { createMttyDriver } from '../../devices/mtty/driver.js';
import { createTestCardDriver } from '../../devices/testcard/driver.js';
import { createVgpuDriver } from '../../devices/vgpu/driver.js';
import { createVirtioNetDriver } from '../../devices/virtio-net/driver.js';
import type { EventThread } from '../../sys/event-task.js';
import { VfioCore } from '../../vfio/core/core.js';
import type { VendorDriver } from '../../vfio/driver.js';
import { hostProvider } from '../../vfio/host/index.js';
import type { VfioProvider } from '../../vfio/provider.js';
import { userProvider } from '../../vfio/user/index.js';

export interface OpenProviders {
  readonly drivers: readonly VendorDriver[];
  readonly providers: readonly VfioProvider[];
  /** To be disposed. */
  readonly core: VfioCore;
}

export function openProviders(): OpenProviders {
  const events = { run: () => expect.unreachable() } as unknown as EventThread;
  const core = new VfioCore();
  const drivers = [createVirtioNetDriver(), createMttyDriver(), createVgpuDriver(), createTestCardDriver()];
  for (const driver of drivers) core.registerVendorDriver(driver, { eventThread: events });
  return { drivers, providers: [core.provider, hostProvider(), userProvider(events)], core };
}

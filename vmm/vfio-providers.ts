/** Where devices come from, in this process: the core with all vendor drivers, the kernel, and plug-ins. */
import { createMttyDriver } from '../devices/mtty/driver.js';
import { createVgpuDriver } from '../devices/vgpu/driver.js';
import { createVirtioNetDriver } from '../devices/virtio-net/driver.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { EventThread } from '../sys/event-task.js';
import type { Scope } from '../sys/scope.js';
import { VfioCore } from '../vfio/core/core.js';
import { hostProvider } from '../vfio/host/index.js';
import type { VfioProvider } from '../vfio/uapi.js';
import { userProvider } from '../vfio/user/index.js';
import type { Plugin } from './plugin.js';

export interface VfioProviders {
  readonly core: VfioCore;
  /** In the order in which they are asked whether an address is theirs. */
  readonly providers: readonly VfioProvider[];
}

/** Machine thread only. `scope` owns them. @throws SysError EEXIST for a vendor driver that is there twice */
export function createVfioProviders(
  scope: Scope,
  eventThread: EventThread,
  plugins: readonly Plugin[],
): VfioProviders {
  const core = scope.own(new VfioCore());
  const drivers = [
    createVirtioNetDriver(),
    createMttyDriver(),
    createVgpuDriver(),
    ...plugins.flatMap(({ vendorDrivers = [] }) => vendorDrivers),
  ];
  for (const driver of drivers) core.registerVendorDriver(driver, { eventThread });
  const providers = [
    core.provider,
    hostProvider(),
    userProvider(eventThread),
    ...plugins.flatMap(({ providers: more = [] }) => more),
  ];
  return { core, providers };
}

/** The provider of an address. @throws SysError ENODEV, naming the addresses that there are, if none takes it */
export function requireProvider(providers: readonly VfioProvider[], address: string): VfioProvider {
  const provider = providers.find((candidate) => candidate.matches(address));
  if (provider !== undefined) return provider;
  const known = providers.map(({ name, addresses }) => `${name}: ${addresses}`).join('; ');
  const hint = `known devices are: ${known}`;
  throw new SysError({ call: 'attach', target: `device '${address}'`, errno: errno.ENODEV, hint });
}

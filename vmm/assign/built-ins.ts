/** The devices of this package: all of its vendor drivers and providers. */
import type { DependencyContainer } from 'tsyringe';
import { createMttyDriver } from '../../devices/mtty/driver.js';
import { createTestCardDriver } from '../../devices/testcard/driver.js';
import { createVgpuDriver, type VgpuDriverOptions } from '../../devices/vgpu/driver.js';
import { createVgpuGttDriver } from '../../devices/vgpu-gtt/driver.js';
import { createVirtioBlkDriver } from '../../devices/virtio-blk/driver.js';
import { createVirtioGpuDriver } from '../../devices/virtio-gpu/driver.js';
import { createVirtioInputDriver } from '../../devices/virtio-input/driver.js';
import { createVirtioNetDriver } from '../../devices/virtio-net/driver.js';
import { Scope } from '../../sys/scope.js';
import type { VendorDriver } from '../../vfio/driver.js';
import { hostProvider } from '../../vfio/host/index.js';
import { userProvider } from '../../vfio/user/index.js';
import {
  type AssignmentPorts,
  commonPorts,
  createCore,
  type DeviceSources,
  type GetPort,
  type PortName,
} from './ports.js';
import { registerPortsFrom } from './register.js';

/** New vendor drivers of this package, one of each. @throws SysError EINVAL for cards of vGPUs that cannot be */
export const vendorDrivers = (vgpu: VgpuDriverOptions = {}): readonly VendorDriver[] => [
  createVirtioNetDriver(),
  createVirtioBlkDriver(),
  createVirtioGpuDriver(),
  createVirtioInputDriver(),
  createMttyDriver(),
  createVgpuDriver(vgpu),
  createVgpuGttDriver(),
  createTestCardDriver(),
];

/** A core with all drivers, and the providers in the order of matching. */
export const builtIns: DeviceSources = {
  core: (get, scope) => createCore(get('eventThread'), scope, vendorDrivers()),
  providers: [(get) => get('core').provider, () => hostProvider(), (get) => userProvider(get('eventThread'))],
};

/** Factories of the default ports. `scope` owns what they open. */
export const defaultPorts: {
  readonly [K in PortName]: (get: GetPort, scope: Scope) => AssignmentPorts[K];
} = {
  ...commonPorts,
  core: builtIns.core,
  providers: (get) => builtIns.providers.map((make) => make(get)),
};

/**
 * Registers in the caller's tsyringe container every port of {@link AssignmentPorts} that is not registered yet,
 * `Assignment` included. Each registration is a factory that runs once, on first resolve; a port can be replaced until
 * then. The container can come from another copy of tsyringe.
 *
 * If a `VfioProvider` is registered already, no other provider is added.
 * @param given values of ports that are not registered; `vm`, `eventThread` and `windows` have no default
 * @param scope owns what the defaults open, in the order of first resolve
 * @returns `scope`: disposing it detaches the devices that are left first
 * @throws TypeError for a name that is no port, or a malformed window
 */
export function registerAssignment(
  container: DependencyContainer,
  given: Partial<AssignmentPorts> = {},
  scope = new Scope(),
): Disposable {
  return registerPortsFrom(container, given, builtIns, scope);
}

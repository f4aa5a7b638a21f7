/** Registers plug-ins with a container: their ports, vendor drivers and providers. */
import type { EventThread } from '../sys/event-task.js';
import type { Scope } from '../sys/scope.js';
import { VfioCore } from '../vfio/core/core.js';
import { VfioProvider } from '../vfio/uapi.js';
import type { AssignmentPorts } from './assign/ports.js';
import { registerAssignment } from './assign/register.js';
import type { DependencyContainer } from './injection.js';
import type { Plugin } from './plugin.js';

/** Lets every plug-in register its ports, before any default. Called in the thread that owns the devices. */
export function configurePorts(container: DependencyContainer, plugins: readonly Plugin[]): void {
  for (const { configure } of plugins) configure?.(container);
}

/**
 * Registers the default of each port that the container lacks, then adds the plug-ins' vendor drivers and providers.
 * @param scope owns everything that the defaults open
 * @throws SysError EEXIST for a vendor driver that is already registered
 */
export function registerPorts(
  container: DependencyContainer,
  plugins: readonly Plugin[],
  given: Partial<AssignmentPorts> & { readonly eventThread: EventThread },
  scope: Scope,
): void {
  registerAssignment(container, given, scope);
  for (const { vendorDrivers = [], providers = [] } of plugins) {
    for (const driver of vendorDrivers)
      container.resolve(VfioCore).registerVendorDriver(driver, { eventThread: given.eventThread });
    for (const provider of providers) container.register(VfioProvider, { useValue: provider });
  }
}

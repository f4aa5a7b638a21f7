/** Registers plug-ins with a container: their ports, vendor drivers and providers. */
import type { EventThread } from '../sys/event-task.js';
import type { Scope } from '../sys/scope.js';
import { VfioCore } from '../vfio/core/core.js';
import { VfioProvider } from '../vfio/provider.js';
import { type AssignmentPorts, requirePort } from './assign/ports.js';
import { registerAssignment } from './assign/register.js';
import type { DependencyContainer } from './injection.js';
import type { Plugin } from './plugin.js';

/**
 * Lets every plug-in register its ports, before any default. Called in the thread that owns the devices.
 * @throws Error naming the plug-in whose `configure` throws or returns a promise, which the machine does not await
 */
export function configurePorts(
  container: DependencyContainer,
  plugins: readonly Plugin[],
  scope: Scope,
): void {
  for (const plugin of plugins) {
    const done = ofPlugin(plugin, () => plugin.configure?.(container, scope)) as unknown;
    if (!(done instanceof Promise)) continue;
    done.catch(() => {}); // the run ends for another reason
    throw new Error(
      `plug-in ${plugin.name}: its configure is asynchronous: ports are registered before it returns`,
    );
  }
}

function ofPlugin<T>({ name }: Plugin, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : `it throws ${String(cause)}`;
    throw new Error(`plug-in ${name}: ${reason}`, { cause });
  }
}

/**
 * Registers the default of each port that the container lacks, then adds the plug-ins' vendor drivers and providers.
 * @param scope owns everything that the defaults open
 * @throws SysError EEXIST for a vendor driver that is already registered; TypeError for a provider that is not an object
 */
export function registerPorts(
  container: DependencyContainer,
  plugins: readonly Plugin[],
  given: Partial<AssignmentPorts> & { readonly eventThread: EventThread },
  scope: Scope,
): void {
  registerAssignment(container, given, scope);
  for (const { name, vendorDrivers = [], providers = [] } of plugins) {
    for (const driver of vendorDrivers)
      container.resolve(VfioCore).registerVendorDriver(driver, { eventThread: given.eventThread });
    for (const provider of providers)
      container.register(VfioProvider, { useValue: requirePort(`provider of plug-in ${name}`, provider) });
  }
}

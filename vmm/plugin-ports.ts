/** Registers plug-ins with a container: their ports, vendor drivers and providers. */
import { SysError } from '../sys/error.js';
import type { EventThread } from '../sys/event-task.js';
import type { Scope } from '../sys/scope.js';
import { VfioCore } from '../vfio/core/core.js';
import type { VendorDriver } from '../vfio/driver.js';
import { VfioProvider } from '../vfio/provider.js';
import type { AssignmentPorts, DeviceSources } from './assign/ports.js';
import { registerPortsFrom } from './assign/register.js';
import type { DependencyContainer } from './injection.js';
import type { Plugin } from './plugin.js';
import { PluginError, reasonOf } from './plugin-error.js';
import { instanceProblem } from './plugin-shape.js';

/**
 * Lets every plug-in register its ports, before any default. Called in the thread that owns the devices.
 * @throws PluginError naming the plug-in whose `configure` throws or returns a promise, which the machine does not await
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
    throw new PluginError(
      plugin.name,
      ': its configure is asynchronous: ports are registered before it returns',
    );
  }
}

function ofPlugin<T>({ name }: Plugin, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw namedError(name, error);
  }
}

/** A plug-in's error with its name; what the host said stays an error of the host. */
function namedError(plugin: string, error: unknown): unknown {
  if (error instanceof PluginError) return error;
  if (!(error instanceof SysError)) return new PluginError(plugin, `: ${reasonOf(error)}`, error);
  const { call, target, errno, hint } = error;
  return new SysError({ call, target: `${target} (plug-in ${plugin})`, errno, hint, cause: error });
}

/**
 * Runs `action` on a device. If its driver or provider is a plug-in's, what it throws besides an error of the host (a
 * TypeError of a function that returned nothing) is reported with that plug-in's name.
 */
export function withPluginNamed<T>(plugins: readonly Plugin[], address: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const owner = plugins.find(
      ({ vendorDrivers = [], providers = [] }) =>
        vendorDrivers.some(({ types }) => types.some(({ name }) => name === address)) ||
        providers.some((provider) => provider.matches(address)),
    );
    if (owner === undefined || error instanceof SysError) throw error;
    throw namedError(owner.name, error);
  }
}

/** The driver, whose errors name the plug-in, and whose instances are checked. */
function guarded(plugin: Plugin, driver: VendorDriver): VendorDriver {
  const ofDriver = <T>(action: () => T): T => ofPlugin(plugin, action);
  return {
    name: driver.name,
    types: driver.types,
    ...(driver.availableInstances && {
      availableInstances: (type) => ofDriver(() => driver.availableInstances?.(type) ?? 0),
    }),
    ...(driver.shortage && {
      shortage: (type, options) => ofDriver(() => driver.shortage?.(type, options) ?? ''),
    }),
    ...(driver.parents && { parents: () => ofDriver(() => driver.parents?.() ?? []) }),
    ...(driver.checkOptions && {
      checkOptions: (type, options) => ofDriver(() => driver.checkOptions?.(type, options)),
    }),
    create: (...parameters) =>
      ofDriver(() => {
        const instance = driver.create(...parameters);
        const problem = instanceProblem(instance);
        if (problem !== undefined)
          throw new PluginError(plugin.name, `: vendor driver ${driver.name}: ${problem}`);
        return instance;
      }),
  };
}

/**
 * Registers the default of each port that the container lacks, then adds the plug-ins' vendor drivers and providers.
 * @param sources where this package's own devices come from
 * @param scope owns everything that the defaults open
 * @throws SysError EEXIST for a vendor driver that is already registered, naming the plug-in
 */
export function registerPorts(
  container: DependencyContainer,
  plugins: readonly Plugin[],
  given: Partial<AssignmentPorts> & { readonly eventThread: EventThread },
  sources: DeviceSources,
  scope: Scope,
): void {
  registerPortsFrom(container, given, sources, scope);
  for (const plugin of plugins) {
    const { vendorDrivers = [], providers = [] } = plugin;
    for (const driver of vendorDrivers) {
      const core = container.resolve(VfioCore);
      ofPlugin(plugin, () =>
        core.registerVendorDriver(guarded(plugin, driver), { eventThread: given.eventThread }),
      );
    }
    for (const provider of providers) container.register(VfioProvider, { useValue: provider });
  }
}

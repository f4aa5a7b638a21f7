import { fileURLToPath } from 'node:url';
import type { DependencyContainer } from 'tsyringe';
import type { PlacementPolicy } from '../devices/vgpu/placement.js';
import { importModule } from '../sys/foreign-module.js';
import type { Scope } from '../sys/scope.js';
import type { VendorDriver } from '../vfio/driver.js';
import type { VfioProvider } from '../vfio/provider.js';
import { PluginError, reasonOf } from './plugin-error.js';
import { pluginProblem } from './plugin-shape.js';

/**
 * The export `plugin` of a plug-in module: vendor drivers, providers and ports. The module is loaded in the thread that
 * owns the devices; in it, `tsvisor/...` resolves to the copy of the package that loads it.
 */
export interface Plugin {
  /** Name for messages. */
  readonly name: string;
  /** Vendor drivers to register with the machine's core. */
  readonly vendorDrivers?: readonly VendorDriver[];
  /** Placement policies that the cards of vGPUs can name, besides this package's. */
  readonly vgpuPlacements?: readonly PlacementPolicy[];
  /** Providers to add; addresses are matched against this package's providers first. */
  readonly providers?: readonly VfioProvider[];
  /**
   * Registers implementations of the machine's ports (the tokens of `tsvisor/assign`, `Clock`) in place of the
   * defaults, before anything is built. Machine thread; synchronous. A `useFactory` or `useClass` of tsyringe creates
   * an object at each resolve: register a port that has state with `useValue` or `registerDefault`. Pass
   * what the plug-in opens to `scope`, which is disposed with the machine.
   */
  configure?(container: DependencyContainer, scope: Scope): void;
}

async function loadPlugin(url: string): Promise<Plugin> {
  const path = url.startsWith('file:') ? fileURLToPath(url) : url;
  const module = await importModule(url).catch((cause: unknown) => {
    throw new PluginError(path, ` cannot be loaded: ${reasonOf(cause)}`, cause);
  });
  const { plugin } = module as { plugin?: unknown };
  if (plugin === undefined) throw new PluginError(path, ' has no export named plugin');
  const problem = pluginProblem(plugin);
  if (problem !== undefined) throw new PluginError(path, `: ${problem}`);
  return plugin as Plugin;
}

/**
 * Loads plug-in modules.
 * @param urls results of {@link pluginUrl}
 * @throws PluginError naming the module that fails to load, takes too long, or exports no plug-in
 */
export const loadPlugins = (urls: readonly string[]): Promise<Plugin[]> => Promise.all(urls.map(loadPlugin));

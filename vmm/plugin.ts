import type { DependencyContainer } from 'tsyringe';
import type { VendorDriver } from '../vfio/driver.js';
import type { VfioProvider } from '../vfio/uapi.js';

/** What a plug-in module exports, as `plugin`: devices, or places where devices come from. It is loaded in the machine thread. */
export interface Plugin {
  /** Name for messages. */
  readonly name: string;
  /** Vendor drivers to register with the machine's core. */
  readonly vendorDrivers?: readonly VendorDriver[];
  /** Providers to ask for devices, after those of this package. */
  readonly providers?: readonly VfioProvider[];
  /**
   * Registers implementations of the machine's ports (the tokens of `tsvisor/assign`, `Clock`) in place of the defaults,
   * before anything is built. Machine thread.
   */
  configure?(container: DependencyContainer): void;
}

/**
 * Loads plug-in modules.
 * @param specifiers URLs, absolute paths or package names
 * @throws Error naming the module that cannot be loaded, or has no `plugin`
 */
export async function loadPlugins(specifiers: readonly string[]): Promise<Plugin[]> {
  return Promise.all(
    specifiers.map(async (specifier) => {
      const module = (await import(specifier).catch((cause: unknown) => {
        throw new Error(`plug-in ${specifier} cannot be loaded: ${(cause as Error).message}`, { cause });
      })) as { plugin?: Plugin };
      if (module.plugin === undefined) throw new Error(`plug-in ${specifier} has no export named plugin`);
      return module.plugin;
    }),
  );
}

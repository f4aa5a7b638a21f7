/** The types of devices that a machine can make of its own: the vendor drivers of this package and of plug-ins. */
import type { MdevTypeOption, VendorDriver } from '../vfio/driver.js';

/** A type of mediated device that a vendor driver in TypeScript offers. */
export interface DeviceType {
  /** Its name, which is its address as well: `virtio-net`. */
  readonly name: string;
  /** One readable line. */
  readonly description: string;
  /** The VFIO device API of its instances: `vfio-pci`. */
  readonly deviceApi: string;
  /** How many instances one machine can have. */
  readonly maxInstances: number;
  /** Its options; undefined if the driver does not say. */
  readonly options: readonly MdevTypeOption[] | undefined;
  /** Name of the driver. */
  readonly driver: string;
  /** Name of the plug-in that brings the driver; undefined for this package's own. */
  readonly plugin: string | undefined;
}

/**
 * The types of this package's drivers, and of those that plug-ins bring. Loads the plug-ins into this thread, and creates
 * nothing.
 * @param plugins paths or packages, as in the machine's configuration
 * @throws ConfigError for a plug-in that is not found; PluginError for one that cannot be loaded
 */
export async function listDeviceTypes(plugins: readonly string[] = []): Promise<DeviceType[]> {
  // Not above: who imports the package for its machine would load all of a machine's thread with it.
  const [{ vendorDrivers }, { loadPlugins }, { pluginUrls }] = await Promise.all([
    import('./assign/ports.js'),
    import('./plugin.js'),
    import('./plugin-url.js'),
  ]);
  const loaded = await loadPlugins(pluginUrls(plugins));
  return [
    ...vendorDrivers().flatMap((driver) => typesOf(driver, undefined)),
    ...loaded.flatMap(({ name, vendorDrivers: own = [] }) => own.flatMap((driver) => typesOf(driver, name))),
  ];
}

const typesOf = ({ name: driver, types }: VendorDriver, plugin: string | undefined): DeviceType[] =>
  types.map(({ name, description, deviceApi, maxInstances, options }) => ({
    name,
    description,
    deviceApi,
    maxInstances,
    options,
    driver,
    plugin,
  }));

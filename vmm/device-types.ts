/** The types of devices that a machine can make of its own: the vendor drivers of this package and of plug-ins. */
import type { MdevParentState, MdevTypeOption, VendorDriver } from '../vfio/driver.js';
import { parseVgpuCards } from './config.js';
import type { VgpuCardInput } from './vgpu-cards.js';

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

/** A device that a vendor driver in TypeScript divides into instances. */
export interface DeviceParent extends MdevParentState {
  /** Name of the driver. */
  readonly driver: string;
  /** Name of the plug-in that brings the driver; undefined for this package's own. */
  readonly plugin: string | undefined;
}

/**
 * The types of this package's drivers, and of those that plug-ins bring. Loads the plug-ins into this thread, and creates
 * nothing.
 * @param plugins paths or packages, as in the machine's configuration
 * @param cards of vGPUs, as in the machine's configuration
 * @throws ConfigError for a plug-in that is not found, or a card that cannot be; PluginError for a plug-in that cannot be loaded
 */
export async function listDeviceTypes(
  plugins: readonly string[] = [],
  cards: readonly VgpuCardInput[] = [],
): Promise<DeviceType[]> {
  return (await driversOf(plugins, cards)).flatMap(({ driver, plugin }) => typesOf(driver, plugin));
}

/**
 * The devices that those drivers divide, without any instance: what a machine or a served device starts with, each for itself.
 * As {@link listDeviceTypes} otherwise.
 */
export async function listDeviceParents(
  plugins: readonly string[] = [],
  cards: readonly VgpuCardInput[] = [],
): Promise<DeviceParent[]> {
  return (await driversOf(plugins, cards)).flatMap(({ driver, plugin }) =>
    (driver.parents?.() ?? []).map((parent) => ({ ...parent, driver: driver.name, plugin })),
  );
}

interface OwnedDriver {
  readonly driver: VendorDriver;
  readonly plugin: string | undefined;
}

async function driversOf(
  plugins: readonly string[],
  cards: readonly VgpuCardInput[],
): Promise<readonly OwnedDriver[]> {
  // Not above: who imports the package for its machine would load all of a machine's thread with it.
  const [{ configuredDrivers }, { loadPlugins }, { pluginUrls }] = await Promise.all([
    import('./configured-plugins.js'),
    import('./plugin.js'),
    import('./plugin-url.js'),
  ]);
  const loaded = await loadPlugins(pluginUrls(plugins));
  return [
    ...configuredDrivers(loaded, parseVgpuCards(cards)).map((driver) => ({ driver, plugin: undefined })),
    ...loaded.flatMap(({ name, vendorDrivers: own = [] }) => own.map((driver) => ({ driver, plugin: name }))),
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

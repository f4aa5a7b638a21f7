/** Devices with the option `hostile=`. Loaded only for machines that have one, and for such a device that is served. */
import { hostileByOption } from '../devices/hostile/index.js';
import type { VendorDriver } from '../vfio/driver.js';
import { withDrivers } from './configured-plugins.js';
import type { Plugin } from './plugin.js';

/** The plug-ins, with drivers that know the option, and one more, by which the package's drivers know it. */
export function withHostileDevices(
  plugins: readonly Plugin[],
  own: readonly VendorDriver[],
): readonly Plugin[] {
  const ofPackage = withDrivers('hostile devices', () => own.map((driver) => hostileByOption(driver)));
  return [...plugins.map(knowing), ofPackage];
}

function knowing(plugin: Plugin): Plugin {
  const { name, vendorDrivers: drivers, vgpuPlacements, providers, configure } = plugin;
  if (drivers === undefined) return plugin;
  return {
    name,
    vendorDrivers: drivers.map((driver) => hostileByOption(driver)),
    ...(vgpuPlacements && { vgpuPlacements }),
    ...(providers && { providers }),
    ...(configure && { configure: configure.bind(plugin) }),
  };
}

/** Devices with the option `hostile=`. Loaded only for machines that have one, and for such a device that is served. */
import { hostileByOption } from '../devices/hostile/index.js';
import { EventThread } from '../sys/event-task.js';
import { VfioCore } from '../vfio/core/core.js';
import { createCore, vendorDrivers } from './assign/ports.js';
import { registerDefault } from './assign/register.js';
import type { Plugin } from './plugin.js';

/** The plug-ins, with drivers that know the option, and one more, by which the package's drivers know it. */
export function withHostileDevices(plugins: readonly Plugin[]): readonly Plugin[] {
  const own: Plugin = {
    name: 'hostile devices',
    configure: (container, scope) =>
      registerDefault(container, VfioCore, () => {
        const drivers = vendorDrivers().map((driver) => hostileByOption(driver));
        return createCore(container.resolve<EventThread>(EventThread), scope, drivers);
      }),
  };
  return [...plugins.map(knowing), own];
}

function knowing(plugin: Plugin): Plugin {
  const { name, vendorDrivers: drivers, providers, configure } = plugin;
  if (drivers === undefined) return plugin;
  return {
    name,
    vendorDrivers: drivers.map((driver) => hostileByOption(driver)),
    ...(providers && { providers }),
    ...(configure && { configure: configure.bind(plugin) }),
  };
}

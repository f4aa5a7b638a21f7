/** Plug-ins, and what a configuration changes in the vendor drivers of this package. In the thread that owns the devices. */
import type { VgpuCardOptions } from '../devices/vgpu/card.js';
import { PLACEMENT_POLICIES } from '../devices/vgpu/placement.js';
import { EventThread } from '../sys/event-task.js';
import { VfioCore } from '../vfio/core/core.js';
import type { VendorDriver } from '../vfio/driver.js';
import { vendorDrivers } from './assign/built-ins.js';
import { createCore } from './assign/ports.js';
import { registerDefault } from './assign/register.js';
import { ConfigError } from './config-error.js';
import type { Plugin } from './plugin.js';
import { cardOptions, type VgpuCardConfig } from './vgpu-cards.js';

interface Configured {
  readonly cards: readonly VgpuCardConfig[];
  /** Whether a device has the option `hostile`. */
  readonly isHostile: boolean;
}

/**
 * The plug-ins, and one more if the package's own drivers are to be others than its defaults.
 * @throws ConfigError for a placement policy that there is not
 */
export async function configuredPlugins(
  plugins: readonly Plugin[],
  { cards, isHostile }: Configured,
): Promise<readonly Plugin[]> {
  if (cards.length === 0 && !isHostile) return plugins;
  const drivers = configuredDrivers(plugins, cards);
  if (isHostile) return (await import('./hostile-devices.js')).withHostileDevices(plugins, drivers);
  return [...plugins, withDrivers('vgpu cards', () => drivers)];
}

/** This package's vendor drivers, with these cards; as they are by default if there are none. @throws ConfigError */
export function configuredDrivers(
  plugins: readonly Plugin[],
  cards: readonly VgpuCardConfig[],
): readonly VendorDriver[] {
  if (cards.length === 0) return vendorDrivers();
  const placements = plugins.flatMap(({ vgpuPlacements = [] }) => vgpuPlacements);
  const names = [...PLACEMENT_POLICIES, ...placements].map(({ name }) => name);
  const problems = cards.flatMap(({ placement }, i) =>
    names.includes(placement)
      ? []
      : { path: `vgpuCards[${i}].placement`, text: `'${placement}' is none of ${names.join(', ')}` },
  );
  if (problems.length > 0) throw new ConfigError(problems);
  const options: readonly VgpuCardOptions[] = cardOptions(cards);
  return vendorDrivers({ cards: options, placements });
}

/** A plug-in by which the machine's core has these drivers instead of the package's. */
export const withDrivers = (name: string, drivers: () => readonly VendorDriver[]): Plugin => ({
  name,
  configure: (container, scope) =>
    registerDefault(container, VfioCore, () =>
      createCore(container.resolve<EventThread>(EventThread), scope, drivers()),
    ),
});

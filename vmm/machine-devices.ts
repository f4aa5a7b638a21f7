/** What devices a thread can have, by its configuration. */
import type { MachineDevices } from './compose.js';
import type { DeviceConfig } from './config.js';
import { devicesOnDemand } from './devices-on-demand.js';
import { loadPlugins } from './plugin.js';
import type { VgpuCardConfig } from './vgpu-cards.js';

/** Without plug-ins, and with the drivers as they are, only what the devices need is loaded. @throws as loadPlugins, ConfigError */
export async function machineDevices(
  {
    plugins,
    vgpuCards: cards,
  }: { readonly plugins: readonly string[]; readonly vgpuCards: readonly VgpuCardConfig[] },
  devices: readonly Partial<Pick<DeviceConfig, 'options'>>[],
): Promise<MachineDevices> {
  const isHostile = devices.some(({ options }) => options?.hostile !== undefined);
  if (plugins.length === 0 && cards.length === 0 && !isHostile)
    return { plugins: [], sources: devicesOnDemand() };
  const [{ configuredPlugins }, { builtIns }, loaded] = await Promise.all([
    import('./configured-plugins.js'),
    import('./assign/built-ins.js'),
    loadPlugins(plugins),
  ]);
  return { plugins: await configuredPlugins(loaded, { cards, isHostile }), sources: builtIns };
}

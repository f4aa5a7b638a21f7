import type { VfioProvider } from '../vfio/provider.js';
import { isUuid } from '../vfio/uuid.js';
import type { DeviceConfig } from './config.js';
import { ConfigError, type ConfigProblem } from './config-error.js';

/**
 * Checks addresses and options of devices before anything of them is opened.
 * @param providers the first that matches an address has it
 * @throws ConfigError listing every problem, by the device's place in the list
 */
export function checkDevices(
  providers: readonly VfioProvider[],
  devices: readonly Pick<DeviceConfig, 'address' | 'options'>[],
): void {
  const problems: ConfigProblem[] = [];
  for (const [i, { address, options }] of devices.entries()) {
    const provider = providers.find((candidate) => candidate.matches(address));
    const known = providers.map(({ addresses }) => `\n    ${addresses}`).join('');
    // A UUID has the right form, and the host lacks the device: attaching it says so.
    if (provider === undefined && isUuid(address)) continue;
    const text =
      provider === undefined
        ? `there is no device '${address}'; there are:${known}`
        : provider.checkOptions?.(address, options);
    if (text !== undefined) problems.push({ path: `devices[${i}]`, text });
  }
  if (problems.length > 0) throw new ConfigError(problems);
}

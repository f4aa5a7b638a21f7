import { pciAddress } from '../vfio/addresses.js';
import type { VfioProvider } from '../vfio/provider.js';
import { providerOf } from '../vfio/provider-of.js';
import { isUuid } from '../vfio/uuid.js';
import type { DeviceConfig } from './config.js';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { deviceSuggestion } from './device-suggestion.js';

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
  const places = new Map<string, number>();
  for (const [i, { address, options }] of devices.entries()) {
    const provider = providerOf(providers, address);
    const name = onlyOne(address);
    const first = name === undefined ? undefined : places.get(name);
    if (name !== undefined && first === undefined) places.set(name, i);
    // A UUID has the right form, and the host lacks the device: attaching it says so.
    if (provider === undefined && isUuid(address) && first === undefined) continue;
    const text =
      first !== undefined
        ? `${address} is devices[${first}]'s`
        : provider === undefined
          ? unknownDevice(providers, address)
          : provider.checkOptions?.(address, options);
    if (text !== undefined) problems.push({ path: `devices[${i}]`, text });
  }
  if (problems.length > 0) throw new ConfigError(problems);
}

/** The name of what there is only one of: a device of the host. */
export const onlyOne = (address: string): string | undefined =>
  pciAddress(address) ?? (isUuid(address) || /^fd:\d/.test(address) ? address.toLowerCase() : undefined);

function unknownDevice(providers: readonly VfioProvider[], address: string): string {
  const meant = deviceSuggestion(
    address,
    providers.flatMap(({ names = [] }) => names),
  );
  if (meant !== '') return `there is no device '${address}'${meant}`;
  const known = providers.map(({ addresses }) => `\n    ${addresses}`).join('');
  return `there is no device '${address}'; there are:${known}`;
}

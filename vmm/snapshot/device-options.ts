/** Options of a saved machine's devices that are chosen anew. */
import { ConfigError } from '../config-error.js';

/** Options by the place of their device: slot, or slot and function. */
export type DeviceOptionChanges = Readonly<Record<string, Readonly<Record<string, string>>>>;

/**
 * The configuration with these options of its devices.
 * @param config as it was saved, not validated
 * @throws ConfigError for a place that none of its devices has
 */
export function withOptions(
  config: Readonly<Record<string, unknown>>,
  changes: DeviceOptionChanges,
): Readonly<Record<string, unknown>> {
  const places = Object.keys(changes);
  if (places.length === 0) return config;
  const devices: readonly unknown[] = Array.isArray(config.devices) ? config.devices : [];
  const known = devices.map(placeOf);
  const unknown = places.filter((place) => !known.includes(place));
  if (unknown.length > 0)
    throw new ConfigError(
      unknown.map((place) => ({
        path: `deviceOptions.${place}`,
        text: `the saved machine has no device there: its devices are in ${known.join(', ') || 'no slot'}`,
      })),
    );
  return {
    ...config,
    devices: devices.map((device) => {
      const chosen = changes[placeOf(device)];
      if (chosen === undefined) return device;
      const { options } = device as { readonly options?: object };
      return { ...(device as object), options: { ...options, ...chosen } };
    }),
  };
}

function placeOf(device: unknown): string {
  const { slot, function: number } = Object(device) as Readonly<Record<'slot' | 'function', unknown>>;
  return number === undefined || number === 0 ? String(slot) : `${slot}.${number}`;
}

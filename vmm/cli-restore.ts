/** `tsvisor run --restore FOLDER`: what the command line can choose anew for a machine that was saved. */
import { join } from 'node:path';
import { type ParsedOptions, usageError } from './command-line.js';
import type { VmConfigInput } from './config.js';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { readConfigFile } from './config-file.js';
import { parseAddress } from './device-address.js';
import { isPlace, parseDevice } from './device-text.js';
import { DEBUG_CHANNELS, type LogLevel } from './log-level.js';
import { wholeConfig } from './snapshot/config.js';
import { withOptions } from './snapshot/device-options.js';
import type { RestoreChanges } from './snapshot/restore.js';

/** What is in the saved state, or has no place in it. */
const FIXED = ['memory', 'cpus', 'config', 'append', 'sandbox', 'pcap', 'disk'];
const TEXTS = ['guest', 'kernel', 'initrd', 'ffi'] as const;

/** A machine to restore, as the command line says. */
export interface RestoreRequest {
  readonly folder: string;
  readonly changes: RestoreChanges;
  /** The whole configuration, not validated yet. */
  readonly input: VmConfigInput;
}

/** @throws ConfigError for wrong usage, and for a folder without a configuration */
export function restoreRequest(
  folder: string,
  options: ParsedOptions,
  level: LogLevel | undefined,
): RestoreRequest {
  for (const name of FIXED)
    if (options.has(name)) throw usageError(`--${name}`, 'cannot be changed for a machine that is restored');
  const file = readConfigFile(join(folder, 'config.json')) as Record<string, unknown>;
  const saved = wholeConfig(file).input as VmConfigInput;
  const changes = changesOf(options, level);
  const { deviceOptions } = changes;
  if (deviceOptions !== undefined) {
    const input = namingOption(() => withOptions({ ...saved, ...changes }, deviceOptions));
    const { deviceOptions: _, ...whole } = input as VmConfigInput & { readonly deviceOptions: unknown };
    return { folder, changes, input: whole };
  }
  const devices = devicesOf(saved.devices ?? [], options);
  const all = devices === undefined ? changes : { ...changes, devices };
  return { folder, changes: all, input: { ...saved, ...all } };
}

/** What is chosen anew whatever the machine is: the ends of its serial ports, options of its devices by slot, how it runs here. */
export function changesOf(options: ParsedOptions, level: LogLevel | undefined): RestoreChanges {
  const changes: Record<string, unknown> = {};
  for (const name of TEXTS) if (options.has(name)) changes[name] = options.value(name);
  const ring = options.value('dirty-ring');
  if (ring !== undefined) changes.dirtyRing = parseDirtyRing(ring);
  if (options.has('no-reboot')) changes.reboot = false;
  for (const [option, key] of [
    ['plugin', 'plugins'],
    ['serial', 'serial'],
    ['trace', 'trace'],
  ] as const) {
    const list = options.list(option);
    if (list !== undefined) changes[key] = list;
  }
  if (level === 'debug') changes.trace = [...new Set([...(options.list('trace') ?? []), ...DEBUG_CHANNELS])];
  const chosen = optionsOf(options);
  return chosen === undefined ? changes : { ...changes, deviceOptions: chosen };
}

/** The number of entries; what a number may be, the configuration checks. @throws ConfigError */
export function parseDirtyRing(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  throw usageError('--dirty-ring', `'${text}' is not a number of entries, such as 4096`);
}

/** `--device 3,mac=...,net=...`: options of the device in a slot; undefined if devices are given whole, or not at all. */
function optionsOf(options: ParsedOptions): Record<string, Record<string, string>> | undefined {
  const given = options.list('device') ?? [];
  const parsed = given.map((text) => ({ text, ...parseAddress(text, `--device ${text}`) }));
  const changes = parsed.filter(({ address }) => isPlace(address));
  const [whole] = parsed.filter(({ address }) => !isPlace(address));
  if (changes.length === 0) return undefined;
  if (whole !== undefined)
    throw usageError(
      `--device ${whole.text}`,
      'names a device, and another --device a slot: give options by slot, or all devices',
    );
  return Object.fromEntries(
    changes.map(({ address, options: chosen }) => [address.replace(/\.0$/, ''), chosen]),
  );
}

function namingOption<T>(choose: () => T): T {
  try {
    return choose();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const named = ({ path, text }: ConfigProblem) => ({
      path: path.replace('deviceOptions.', '--device '),
      text,
    });
    throw new ConfigError(error.problems.map(named));
  }
}

type Devices = NonNullable<VmConfigInput['devices']>;

/** The devices with their back-ends, if these are given: the same devices in the same slots, as their state is in the folder. */
function devicesOf(saved: Devices, options: ParsedOptions): Devices | undefined {
  const net = options.value('net');
  const given = options.list('device');
  if (given !== undefined) {
    if (net !== undefined)
      throw usageError('--net', 'belongs to the default NIC; with --device, append net= to the device');
    return given
      .filter((text) => text !== 'none')
      .map((text) => parseDevice(text, `--device ${text}`)) as Devices;
  }
  if (net === undefined) return undefined;
  const nics = saved.filter(({ address }) => address === 'virtio-net').length;
  if (nics !== 1)
    throw usageError('--net', `the saved machine has ${nics} NICs: give all of its devices with --device`);
  return saved.map((device) =>
    device.address === 'virtio-net' ? { ...device, options: { ...device.options, net } } : device,
  );
}

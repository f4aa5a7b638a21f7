import { printable, printableJson } from '../sys/printable.js';
import { type HostContext, type HostMdevType, listMdevTypes, Sysfs } from '../vfio/host/index.js';
import { noArgument } from './cli-arguments.js';
import { TYPES } from './cli-help-host.js';
import { parseCommandLine } from './command-line.js';
import { ConfigError } from './config-error.js';
import { type DeviceType, listDeviceTypes } from './device-types.js';
import type { Output } from './output.js';
import { textTable } from './text-table.js';

/**
 * Runs `tsvisor types`. Returns the exit code.
 * @param host another host, for tests
 * @throws ConfigError, PluginError
 */
export async function types(
  args: readonly string[],
  out: Output,
  host: Partial<Pick<HostContext, 'sysfs'>> = {},
): Promise<number> {
  const options = parseCommandLine(TYPES, args);
  noArgument('types', options);
  const ours = await listDeviceTypes(options.list('plugin') ?? []).catch((error: unknown) => {
    throw error instanceof ConfigError
      ? new ConfigError(error.problems.map(({ text }) => ({ path: '--plugin', text })))
      : error;
  });
  const kernel = listMdevTypes(host.sysfs ?? new Sysfs());
  out.line(options.has('json') ? printableJson({ process: ours, kernel }) : lines(ours, kernel).join('\n'));
  return 0;
}

const lines = (ours: readonly DeviceType[], kernel: readonly HostMdevType[]): string[] => [
  'In this process (--device TYPE,OPTION=VALUE):',
  ...ours.flatMap(typeLines),
  '',
  ...(kernel.length === 0
    ? ['By the kernel: none, as no driver of the host offers mediated devices.']
    : ['By the kernel (tsvisor mdev create TYPE, or --device mdev:TYPE):', ...kernel.flatMap(kernelLines)]),
];

function typeLines({ name, description, deviceApi, maxInstances, options, plugin }: DeviceType): string[] {
  const from = plugin === undefined ? '' : `, of plug-in ${printable(plugin)}`;
  const rows = (options ?? []).map((option) => [
    `      ${printable(option.name)}=${printable(option.value)}`,
    printable(option.description),
  ]);
  const head = `  ${printable(name)}: ${printable(description)}`;
  return ['', head, `      ${printable(deviceApi)}, at most ${maxInstances}${from}`, ...textTable(rows)];
}

function kernelLines(type: HostMdevType): string[] {
  const { type: id, name, parent, deviceApi, availableInstances, description, instances } = type;
  const text = description.split('\n').map(printable);
  return [
    '',
    `  ${printable(id)} of ${printable(parent)}${name === id ? '' : `: ${printable(name)}`}`,
    `      ${printable(deviceApi)}, ${availableInstances} available`,
    ...text.filter((line) => line !== '').map((line) => `      ${line}`),
    ...instances.map((uuid) => `      instance ${printable(uuid)}`),
  ];
}

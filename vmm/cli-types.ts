import { printable, printableJson } from '../sys/printable.js';
import {
  type HostContext,
  type HostMdevType,
  listMdevTypes,
  listVfTypes,
  Sysfs,
  type VfTypesRecord,
} from '../vfio/host/index.js';
import { noArgument } from './cli-arguments.js';
import { TYPES } from './cli-help-host.js';
import { parseCommandLine } from './command-line.js';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { type DeviceParent, type DeviceType, listDeviceParents, listDeviceTypes } from './device-types.js';
import type { Output } from './output.js';
import { parentText } from './parent-text.js';
import { textTable } from './text-table.js';
import { parseVgpuCard, type VgpuCardInput } from './vgpu-cards.js';

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
  const plugins = options.list('plugin') ?? [];
  const cards = (options.list('vgpu-card') ?? []).map(parseVgpuCard) as readonly VgpuCardInput[];
  const [ours, parents] = await Promise.all([
    listDeviceTypes(plugins, cards),
    listDeviceParents(plugins, cards),
  ]).catch((error: unknown) => {
    throw error instanceof ConfigError ? new ConfigError(error.problems.map(named)) : error;
  });
  const sysfs = host.sysfs ?? new Sysfs();
  const [kernel, vfs] = [listMdevTypes(sysfs), listVfTypes(sysfs)];
  out.line(
    options.has('json')
      ? printableJson({ process: ours, parents, kernel, vfs })
      : lines({ ours, parents, kernel, vfs }).join('\n'),
  );
  return 0;
}

const named = ({ path, text }: ConfigProblem): ConfigProblem => ({
  path: path.startsWith('vgpuCards') ? '--vgpu-card' : '--plugin',
  text,
});

interface Lists {
  readonly ours: readonly DeviceType[];
  readonly parents: readonly DeviceParent[];
  readonly kernel: readonly HostMdevType[];
  readonly vfs: readonly VfTypesRecord[];
}

const lines = ({ ours, parents, kernel, vfs }: Lists): string[] => [
  'In this process (--device TYPE,OPTION=VALUE):',
  ...ours.flatMap(typeLines),
  ...(parents.length === 0
    ? []
    : [
        '',
        'Divided among them, in each run and for each served device anew:',
        ...parents.flatMap(parentLines),
      ]),
  '',
  ...(kernel.length === 0
    ? ['By the kernel: none, as no driver of the host offers mediated devices.']
    : ['By the kernel (tsvisor mdev create TYPE, or --device mdev:TYPE):', ...kernel.flatMap(kernelLines)]),
  ...(vfs.length === 0
    ? []
    : ['', 'By VFs of the host (--device ADDRESS,vgpu-type=NAME):', ...vfs.flatMap(vfLines)]),
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

function parentLines({ name, driver, plugin, ...state }: DeviceParent): string[] {
  const from = plugin === undefined ? '' : `, of plug-in ${printable(plugin)}`;
  const counts = Object.entries(state.availableInstances).map(([type, count]) => [
    `      ${printable(type)}`,
    `${count} available`,
  ]);
  return [
    '',
    `  ${printable(name)} of ${printable(driver)}${from}: ${printable(parentText(state))}`,
    ...textTable(counts),
  ];
}

function vfLines({ address, physfn, types, problem }: VfTypesRecord): string[] {
  const current = types?.current === 0 ? 'without a type' : `with type ${types?.current}`;
  const head = `  ${address}${physfn === undefined ? '' : `, VF of ${physfn}`}, `;
  const rows = (types?.creatable ?? []).map(({ id, name }) => [`      ${id}`, printable(name)]);
  return ['', head + (problem === undefined ? current : printable(problem)), ...textTable(rows)];
}

import { printable, printableJson } from '../sys/printable.js';
import { createMdev, Sysfs } from '../vfio/host/index.js';
import {
  type InventoryOptions,
  type MdevRecord,
  readMdevs,
  removeUnusedMdev,
} from '../vfio/host/inventory/index.js';
import { noArgument, oneArgument } from './cli-arguments.js';
import { hostCommand } from './cli-help-host.js';
import { type ParsedOptions, parseCommandLine, usageError } from './command-line.js';
import type { Output } from './output.js';
import { textTable } from './text-table.js';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/**
 * Runs `tsvisor mdev list`, `create` or `remove`. Returns the exit code.
 * @param name of the command, with both of its words
 * @param host another host, for tests
 * @throws ConfigError; SysError of the host
 */
export function mdev(
  name: string,
  args: readonly string[],
  out: Output,
  host: InventoryOptions = {},
): number {
  const options = parseCommandLine(hostCommand(name), args);
  if (name === 'mdev list') list(options, out, host);
  else if (name === 'mdev create') create(options, out, host);
  else remove(options, out, host);
  return 0;
}

function list(options: ParsedOptions, out: Output, host: InventoryOptions): void {
  noArgument('mdev list', options);
  const mdevs = readMdevs(host);
  if (options.has('json')) out.line(printableJson(mdevs));
  else if (mdevs.length === 0)
    out.line('There are no mediated devices: tsvisor types lists what can be created.');
  else
    out.line(
      textTable([['UUID', 'TYPE', 'PARENT', 'GROUP', 'DRIVER', 'USED BY'], ...mdevs.map(row)]).join('\n'),
    );
}

const row = ({ uuid, type, parent, group, driver, users }: MdevRecord): string[] =>
  [
    uuid,
    type ?? '-',
    parent ?? '-',
    group?.toString() ?? '-',
    driver ?? '-',
    users.map(({ pid, name }) => `process ${pid} (${name})`).join(', '),
  ].map(printable);

function create(options: ParsedOptions, out: Output, host: InventoryOptions): void {
  const type = oneArgument('mdev create', options, 'a TYPE');
  const given = options.value('uuid');
  if (given !== undefined && !UUID.test(given)) throw usageError('--uuid', `'${given}' is not a UUID`);
  const parent = options.value('parent');
  const uuid = createMdev(host.sysfs ?? new Sysfs(host.roots?.sys), type, {
    uuid: given?.toLowerCase(),
    parent,
  });
  out.line(options.has('json') ? printableJson({ uuid }) : uuid);
}

function remove(options: ParsedOptions, out: Output, host: InventoryOptions): void {
  const uuid = oneArgument('mdev remove', options, 'a UUID');
  if (!UUID.test(uuid)) throw usageError(`'${uuid}'`, 'is not a UUID');
  removeUnusedMdev(uuid.toLowerCase(), host);
  if (options.has('json')) out.line(printableJson({ uuid: uuid.toLowerCase() }));
}

import { printableJson } from '../sys/printable.js';
import { type InventoryOptions, readPciFunction, readPciInventory } from '../vfio/host/inventory/index.js';
import { addressArgument, oneArgument } from './cli-arguments.js';
import { DEVICES_COMMAND } from './cli-help-host.js';
import { parseCommandLine } from './command-line.js';
import type { Output } from './output.js';
import { functionLines, inventoryLines } from './pci-function-text.js';

/**
 * Runs `tsvisor devices`. Returns the exit code.
 * @param host another host, for tests
 * @throws ConfigError; SysError ENODEV for an address without a device
 */
export function devices(args: readonly string[], out: Output, host: InventoryOptions = {}): number {
  const options = parseCommandLine(DEVICES_COMMAND, args);
  const isJson = options.has('json');
  if (options.positionals.length === 0) {
    const inventory = readPciInventory(host);
    out.line(isJson ? printableJson(inventory) : inventoryLines(inventory).join('\n'));
    return 0;
  }
  const record = readPciFunction(addressArgument(oneArgument('devices', options, 'an ADDRESS')), host);
  out.line(isJson ? printableJson(record) : functionLines(record).join('\n'));
  return 0;
}

import { printable, printableJson } from '../sys/printable.js';
import {
  bindPciFunction,
  type DriverBinding,
  type HostContext,
  type Rebinding,
  restorePciBinding,
  unbindPciFunction,
} from '../vfio/host/index.js';
import { addressArgument, oneArgument } from './cli-arguments.js';
import { BIND, UNBIND } from './cli-help-host.js';
import { type ParsedOptions, parseCommandLine, usageError } from './command-line.js';
import type { Output } from './output.js';

/** What the kernel's drivers are called. */
const DRIVER = /^[\w-]+$/;
const NO_DRIVER = 'none';

type Host = Partial<HostContext>;

/**
 * Runs `tsvisor bind`. Returns the exit code.
 * @param host another host, for tests
 * @throws ConfigError; SysError of the host, after everything is as it was
 */
export function bind(args: readonly string[], out: Output, host: Host = {}): number {
  const options = parseCommandLine(BIND, args);
  const address = addressArgument(oneArgument('bind', options, 'an ADDRESS'));
  const driver = driverOption(options, 'driver') ?? 'vfio-pci';
  const rebound = bindPciFunction(address, { ...host, driver, isGroup: options.has('group') });
  report(out, options, rebound, 'has a VFIO driver already');
  return 0;
}

/**
 * Runs `tsvisor unbind`. Returns the exit code.
 * @param host another host, for tests
 * @throws ConfigError; SysError of the host, after everything is as it was
 */
export function unbind(args: readonly string[], out: Output, host: Host = {}): number {
  const options = parseCommandLine(UNBIND, args);
  const address = addressArgument(oneArgument('unbind', options, 'an ADDRESS'));
  const driver = driverOption(options, 'driver');
  const driverOverride = driverOption(options, 'override');
  const isGroup = options.has('group');
  if (driver === undefined) {
    if (driverOverride !== undefined) throw usageError('--override', 'needs --driver');
    report(out, options, unbindPciFunction(address, { ...host, isGroup }), 'is with the host already');
    return 0;
  }
  if (isGroup) throw usageError('--group', 'cannot be given with --driver: name each function');
  const binding = { driver: driver === NO_DRIVER ? undefined : driver, driverOverride };
  report(out, options, restorePciBinding(address, binding, host), 'has that driver already');
  return 0;
}

function driverOption(options: ParsedOptions, name: string): string | undefined {
  const driver = options.value(name);
  if (driver !== undefined && !DRIVER.test(driver))
    throw usageError(`--${name}`, `'${driver}' is not the name of a driver`);
  return driver;
}

function report(out: Output, options: ParsedOptions, rebound: readonly Rebinding[], nothing: string): void {
  const undo = [...rebound].reverse().map(undoCommand);
  if (options.has('json')) out.line(printableJson({ rebound, undo }));
  else if (rebound.length === 0) out.line(`nothing to do: it ${nothing}`);
  else {
    for (const { address, before, after } of rebound)
      out.line(printable(`${address}: ${before.driver ?? 'no driver'} -> ${after.driver ?? 'no driver'}`));
    out.line(undo.map((command) => `undo: ${printable(command)}`).join('\n'));
  }
}

/** What makes the binding what it was, for a shell. */
function undoCommand({ address, before }: Rebinding): string {
  const { driver = NO_DRIVER, driverOverride }: DriverBinding = before;
  return `tsvisor unbind ${address} --driver ${driver}${driverOverride === undefined ? '' : ` --override ${driverOverride}`}`;
}

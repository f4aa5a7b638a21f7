/** `tsvisor run --incoming ADDRESS`: waits for a machine that another process moves here. */

import { changesOf } from './cli-restore.js';
import { type ParsedOptions, usageError } from './command-line.js';
import { parseDevice } from './device-text.js';
import type { LogLevel } from './log-level.js';
import type { VmObserver } from './machine-types.js';
import { moveAddressProblem } from './move/address.js';
import type { RestoreChanges } from './snapshot/restore.js';
import { VirtualMachine } from './virtual-machine.js';

/** What comes with the machine, or has no place beside it. */
const FIXED = ['memory', 'cpus', 'config', 'append', 'sandbox', 'pcap', 'disk', 'net', 'restore'];

/** A machine to wait for, as the command line says. */
export interface IncomingRequest {
  readonly address: string;
  readonly changes: RestoreChanges;
}

/** @throws ConfigError for wrong usage */
export function incomingRequest(
  address: string,
  options: ParsedOptions,
  level: LogLevel | undefined,
): IncomingRequest {
  const problem = moveAddressProblem(address);
  if (problem !== undefined) throw usageError('--incoming', problem);
  for (const name of FIXED)
    if (options.has(name))
      throw usageError(`--${name}`, 'comes with a machine that is received, or has no place there');
  const devices = (options.list('device') ?? []).filter((text) => text !== 'none');
  const whole = devices.map((text) => parseDevice(text, `--device ${text}`)) as NonNullable<
    RestoreChanges['devices']
  >;
  const changes = { serial: ['observer'], ...changesOf(options, level) };
  const hasWhole = changes.deviceOptions === undefined && options.has('device');
  return { address, changes: hasWhole ? { ...changes, devices: whole } : changes };
}

/** Waits for the machine. Stops waiting at a signal, whose name `signal` is aborted with. @throws as VirtualMachine.receive */
export const receive = (
  { address, changes }: IncomingRequest,
  observer: VmObserver,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<VirtualMachine> =>
  VirtualMachine.receive(address, changes, observer, {
    signal,
    listening: () => say(`waits for a machine at ${address}: tsvisor ctl SOCKET migrate ${address}`),
  });

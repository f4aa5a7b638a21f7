import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { didYouMean } from '../../sys/suggestion.js';
import { unixPathProblem } from '../../sys/unix-socket.js';
import { CTL } from '../cli-help.js';
import { type ParsedOptions, parseCommandLine, usageError } from '../command-line.js';
import { parseDevice, parsePlace, parseSlot } from '../device-text.js';
import { kindOfFile } from '../file-kind.js';
import { moveAddressProblem } from '../move/address.js';
import type { Output } from '../output.js';
import { outputFileProblem, writeOutputFile } from '../output-file.js';
import { ApiClient } from './client.js';
import {
  countersText,
  devicesText,
  infoText,
  mapsText,
  movedText,
  snapshotText,
  timelineText,
} from './text.js';

/** A command of `tsvisor ctl`. */
interface ControlCommand {
  /** Its arguments in messages; absent if it takes none. */
  readonly takes?: string;
  /** A second argument. */
  readonly more?: string;
  /** Whether the slot can be followed by the number of a function. */
  readonly isOfFunction?: true;
  /** Options that it takes besides --json. */
  readonly options?: readonly string[];
  run(call: Call): Promise<void>;
}

interface Call {
  readonly client: ApiClient;
  readonly args: readonly string[];
  readonly options: ParsedOptions;
  readonly out: Output;
}

/** Prints an answer: as it came with --json, else as text. */
const printing =
  (path: string, text: (value: never) => string): ControlCommand['run'] =>
  async ({ client, options, out }) => {
    const { body } = await client.call('GET', `/v1/${path}`);
    out.line(options.has('json') ? body.toString() : text(JSON.parse(body.toString()) as never));
  };

const action = (name: string): readonly [string, ControlCommand] => [
  name,
  { run: async ({ client }) => void (await client.call('PUT', `/v1/${name}`)) },
];

const COMMANDS: ReadonlyMap<string, ControlCommand> = new Map<string, ControlCommand>([
  ['info', { run: printing('info', infoText) }],
  ['devices', { run: printing('devices', devicesText) }],
  ['maps', { run: printing('memory', mapsText) }],
  ['counters', { run: printing('counters', countersText) }],
  ['timeline', { run: printing('timeline', timelineText) }],
  ['console', { options: ['follow', 'type'], run: useConsole }],
  ['screenshot', { takes: 'FILE', options: ['slot'], run: saveScreenshot }],
  ['attach', { takes: 'DEVICE', run: attach }],
  ['detach', { takes: 'SLOT', options: ['force', 'timeout'], run: detach }],
  ['snapshot', { takes: 'FOLDER', options: ['detach-unmigratable', 'timeout'], run: snapshot }],
  ['migrate', { takes: 'ADDRESS', options: ['downtime', 'timeout'], run: migrate }],
  ['fault', { takes: 'SLOT', more: 'FAULTS', isOfFunction: true, run: inject }],
  ['resize', { takes: 'SLOT', more: 'SIZE', options: ['head'], run: resize }],
  ['input', { takes: 'SLOT', more: 'EVENTS', isOfFunction: true, run: input }],
  ...['pause', 'resume', 'reset', 'power-button', 'stop'].map(action),
]);

/** Runs `tsvisor ctl`. Returns the exit code. @throws ConfigError for wrong usage; SysError, ApiError */
export async function ctl(args: readonly string[], out: Output): Promise<number> {
  const options = parseCommandLine(CTL, args);
  const [socket, name, ...rest] = options.positionals;
  const names = [...COMMANDS.keys()].join(', ');
  if (socket === undefined)
    throw usageError('ctl', 'takes the socket of a machine: tsvisor ctl SOCKET COMMAND');
  if (name === undefined) throw usageError('ctl', `a command is missing: ${names}`);
  const command = COMMANDS.get(name);
  if (command === undefined) throw usageError(`ctl ${name}`, unknownCommand(socket, name));
  check(name, command, rest, options);
  const path = socket.replace(/^unix:/, '');
  const problem = listenerProblem(path);
  if (problem !== undefined) throw usageError('ctl', problem);
  const client = new ApiClient(path);
  await command.run({ client, args: rest, options, out });
  return 0;
}

function unknownCommand(socket: string, name: string): string {
  if (COMMANDS.has(socket)) return `the socket comes first: tsvisor ctl ${name} ${socket}`;
  const names = [...COMMANDS.keys()];
  const meant = didYouMean(name, names);
  return `there is no such command${meant === '' ? `: ${names.join(', ')}` : meant}`;
}

/** Why nobody can listen on a path, whatever runs now; undefined if somebody can. */
function listenerProblem(path: string): string | undefined {
  const problem = unixPathProblem(path);
  if (problem !== undefined) return problem;
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats === undefined || stats.isSocket()
    ? undefined
    : `${path} is ${kindOfFile(stats) ?? 'a file'}, and no socket`;
}

/** Options of every command. */
const OF_ALL = ['json', 'help'];

/** @throws ConfigError for arguments and options that are not the command's */
function check(name: string, command: ControlCommand, args: readonly string[], options: ParsedOptions): void {
  const { takes, more, isOfFunction, options: known = [] } = command;
  if (takes !== undefined && args.length === 0)
    throw usageError(`ctl ${name}`, `a ${takes} is missing: tsvisor ctl SOCKET ${name} ${takes}`);
  const missing = more?.endsWith('S') ? `${more} are` : `a ${more} is`;
  if (more !== undefined && args.length === 1)
    throw usageError(`ctl ${name}`, `${missing} missing: tsvisor ctl SOCKET ${name} ${takes} ${more}`);
  const most = takes === undefined ? 0 : takes === 'DEVICE' ? 29 : more === undefined ? 1 : 2;
  if (args.length > most) throw usageError(`ctl ${name}`, `'${args[most]}' is one argument too many`);
  for (const { name: option } of CTL.options)
    if (options.has(option) && ![...OF_ALL, ...known].includes(option))
      throw usageError(`--${option}`, `is not for ctl ${name}`);
  const [first = ''] = args;
  if (takes === 'SLOT') (isOfFunction ? parsePlace : parseSlot)(first, `ctl ${name}`);
  const slot = options.value('slot');
  if (slot !== undefined) parseSlot(slot, '--slot');
  const problem =
    takes === 'FILE' ? outputFileProblem(first) : takes === 'ADDRESS' ? moveAddressProblem(first) : undefined;
  if (problem !== undefined) throw usageError(`ctl ${name}`, problem);
}

async function useConsole({ client, options, out }: Call): Promise<void> {
  const { printConsole, typeAtConsole } = await import('./cli-console.js');
  const use = options.has('type') ? typeAtConsole : printConsole;
  await use(client, options.has('follow'), out);
}

async function saveScreenshot({ client, args, options }: Call): Promise<void> {
  const slot = options.value('slot');
  const query = slot === undefined ? '' : `?slot=${encodeURIComponent(slot)}`;
  const { body } = await client.call('GET', `/v1/screenshot${query}`);
  await writeOutputFile(args[0] as string, body, `picture ${args[0]}`);
}

async function attach({ client, args, options, out }: Call): Promise<void> {
  const devices = args.map((text) => parseDevice(text, `attach ${text}`));
  const { body } = await client.call('POST', '/v1/devices', devices.length === 1 ? devices[0] : devices);
  const { slots } = JSON.parse(body.toString()) as { readonly slots: readonly number[] };
  if (options.has('json')) out.line(body.toString());
  else for (const [i, slot] of slots.entries()) out.line(`${args[i]} is in slot ${slot}`);
}

async function snapshot({ client, args, options, out }: Call): Promise<void> {
  const timeoutMs = timeoutOf(options);
  const { body } = await client.call('POST', '/v1/snapshot', {
    folder: resolve(args[0] as string),
    ...(options.has('detach-unmigratable') ? { detachUnmigratable: true } : {}),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  if (options.has('json')) out.line(body.toString());
  else out.line(snapshotText(JSON.parse(body.toString())));
}

async function migrate({ client, args: [address = ''], options, out }: Call): Promise<void> {
  const downtime = options.value('downtime');
  if (downtime !== undefined && !/^\d{1,7}$/.test(downtime))
    throw usageError('--downtime', `'${downtime}' is not a number of milliseconds`);
  const timeoutMs = timeoutOf(options);
  const { body } = await client.call('POST', '/v1/move', {
    // A path of this process, and not of the machine's.
    address: address.startsWith('unix:') ? `unix:${resolve(address.slice('unix:'.length))}` : address,
    ...(downtime === undefined ? {} : { downtimeMs: Number(downtime) }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  if (options.has('json')) out.line(body.toString());
  else out.line(movedText(JSON.parse(body.toString())));
}

async function inject({ client, args: [place = '', faults] }: Call): Promise<void> {
  const { slot, function: number } = parsePlace(place, 'ctl fault');
  await client.call('PUT', `/v1/devices/${slot}/faults`, { faults, function: number });
}

/** A packet of events: `1:30:1,1:48:1`. */
async function input({ client, args: [place = '', text = ''] }: Call): Promise<void> {
  const { slot, function: number } = parsePlace(place, 'ctl input');
  const events = text.split(',').map((event) => {
    const [, type, code, value] = /^(\d{1,2}):(\d{1,5}):(-?\d{1,10})$/.exec(event) ?? [];
    if (type === undefined)
      throw usageError('ctl input', `'${event}' is not an event TYPE:CODE:VALUE: 1:30:1 presses A`);
    return { type: Number(type), code: Number(code), value: Number(value) };
  });
  await client.call('PUT', `/v1/devices/${slot}/input`, { events, function: number });
}

/** `1280x720`. */
async function resize({ client, args: [place = '', text = ''], options }: Call): Promise<void> {
  const slot = parseSlot(place, 'ctl resize');
  const [, width, height] = /^(\d{1,5})x(\d{1,5})$/.exec(text) ?? [];
  if (width === undefined) throw usageError('ctl resize', `'${text}' is not a size WIDTHxHEIGHT: 1280x720`);
  const head = options.value('head');
  if (head !== undefined && !/^\d{1,2}$/.test(head))
    throw usageError('--head', `'${head}' is not the number of a screen: 0 is the first`);
  const size = { width: Number(width), height: Number(height) };
  await client.call('PUT', `/v1/devices/${slot}/size`, {
    ...size,
    ...(head === undefined ? {} : { head: Number(head) }),
  });
}

async function detach({ client, args, options }: Call): Promise<void> {
  const timeoutMs = timeoutOf(options);
  const query = new URLSearchParams({
    ...(options.has('force') ? { force: 'true' } : {}),
    ...(timeoutMs === undefined ? {} : { timeoutMs: String(timeoutMs) }),
  });
  await client.call('DELETE', `/v1/devices/${encodeURIComponent(args[0] as string)}?${query}`);
}

function timeoutOf(options: ParsedOptions): number | undefined {
  const seconds = options.value('timeout');
  if (seconds === undefined) return undefined;
  if (/^\d{1,4}$/.test(seconds)) return Number(seconds) * 1000;
  throw usageError('--timeout', `'${seconds}' is not a number of seconds, 0 to 3600`);
}

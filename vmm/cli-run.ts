import { dirname, resolve } from 'node:path';
import { monotonicMs } from '../sys/monotonic.js';
import { didYouMean } from '../sys/suggestion.js';
import { openApi, openApiSocket, parseApi } from './api/api-socket.js';
import type { ApiSocket } from './api/socket.js';
import { RUN } from './cli-help.js';
import type { IncomingRequest } from './cli-incoming.js';
import { RunPrinter } from './cli-observer.js';
import { parseDirtyRing, type RestoreRequest, restoreRequest } from './cli-restore.js';
import { type ParsedOptions, parseCommandLine, usageError } from './command-line.js';
import { parseConfig, type VmConfig, type VmConfigInput } from './config.js';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { readConfigFile } from './config-file.js';
import { parseDevice, parseDisk } from './device-text.js';
import { Camera } from './display/camera.js';
import { checkDisplay, parseDisplay } from './display/choice.js';
import type { View } from './display/view.js';
import { openView, parsePort } from './display/view-port.js';
import { DEBUG_CHANNELS, givenLevel, type LogLevel } from './log-level.js';
import { EX_UNAVAILABLE, exitStatus } from './outcome.js';
import type { Output } from './output.js';
import { pluginUrls } from './plugin-url.js';
import { shown } from './problem-text.js';

import type { Sandbox } from './sandbox/enter.js';
import { stopOnSignals } from './stop-signals.js';
import { summaryText } from './summary.js';
import { parseVgpuCard } from './vgpu-cards.js';
import { VirtualMachine } from './virtual-machine.js';

/** Runs `tsvisor run`. Returns the exit code. @throws ConfigError, or the error that prevented the run */
export async function run(args: readonly string[], out: Output): Promise<number> {
  const options = parseCommandLine(RUN, args);
  const [argument] = options.positionals;
  if (argument !== undefined)
    throw usageError(`'${argument}'`, 'run takes no argument; a kernel is given with --kernel');
  try {
    return await runMachine(options, out);
  } catch (error) {
    throw error instanceof ConfigError ? named(error, options) : error;
  }
}

async function runMachine(options: ParsedOptions, out: Output): Promise<number> {
  const problems = new Problems();
  const given = problems.of(() => givenLevel(options));
  const display = problems.of(() => parseDisplay(options.value('display')));
  const viewPort = problems.of(() => parsePort(options.value('view')));
  const screenshot = options.value('screenshot');
  const api = problems.of(() => parseApi(options.value('api')));
  const folder = options.value('restore');
  const restore =
    folder === undefined ? undefined : problems.of(() => restoreRequest(folder, options, given));
  if (folder !== undefined) problems.throwAny();
  const address = options.value('incoming');
  // Most runs never need it.
  const incoming =
    address === undefined
      ? undefined
      : await import('./cli-incoming.js').then(({ incomingRequest }) =>
          problems.of(() => incomingRequest(address, options, given)),
        );
  if (address !== undefined) problems.throwAny();
  if (incoming !== undefined) {
    // The rest of its configuration comes with it.
    const config = parseConfig({ serial: incoming.changes.serial });
    using socket = await openApiSocket(api);
    const run = { config, level: given, isJson: options.has('json'), display, viewPort, screenshot, socket };
    return await runConfigured({ ...run, sandbox: undefined, restore: undefined, incoming }, out);
  }
  const input = restore?.input ?? configOf(options, problems, given);
  const config = problems.of(() => parseConfig(input));
  problems.throwAny();
  if (config === undefined) throw new Error('a configuration with a problem has none');
  if (config.serial.includes('stdio') && options.has('json'))
    throw usageError('--json', 'prints the report on stdout, where the serial port at stdio prints');
  checkDisplay(config.devices, { screenshot, view: viewPort, slot: display, showsMachine: true });
  const files = { screenshot, config: options.value('config'), api };
  const sandbox = config.sandbox.mode === 'off' ? undefined : await entered(config, files, viewPort);
  using socket = await openApiSocket(api);
  sandbox?.seal();
  const run: RunOptions = {
    ...{ config, level: given, isJson: options.has('json'), display, viewPort, screenshot, socket },
    sandbox: sandbox?.description,
    restore,
    incoming: undefined,
  };
  try {
    return await runConfigured(run, out);
  } catch (error) {
    if (sandbox === undefined) throw error;
    const { mayBeForbidden } = await import('./sandbox/forbidden.js');
    throw mayBeForbidden(error);
  }
}

/** Enters the sandbox: the first time, this program is executed again. */
async function entered(
  config: VmConfig,
  files: {
    readonly screenshot: string | undefined;
    readonly config: string | undefined;
    readonly api: string | undefined;
  },
  port: number | undefined,
): Promise<Sandbox> {
  const { enterSandbox } = await import('./sandbox/enter.js'); // loaded here, as most runs never need it
  const given = (path: string | undefined) => (path === undefined ? [] : [path]);
  return enterSandbox(config, {
    read: given(files.config),
    outputs: given(files.screenshot),
    listeners: given(files.api),
    port,
  });
}

/** What the command line asks for, parsed. */
interface RunOptions {
  readonly config: VmConfig;
  /** Undefined if it is not given. */
  readonly level: LogLevel | undefined;
  readonly isJson: boolean;
  readonly display: number | undefined;
  readonly viewPort: number | undefined;
  readonly screenshot: string | undefined;
  readonly socket: ApiSocket | undefined;
  /** What the sandbox says of itself, if there is one. */
  readonly sandbox: string | undefined;
  /** The saved machine to go on with, if it does not boot. */
  readonly restore: RestoreRequest | undefined;
  /** The machine to wait for instead. */
  readonly incoming: IncomingRequest | undefined;
}

async function runConfigured(options: RunOptions, out: Output): Promise<number> {
  const { config, isJson, display, screenshot, sandbox, restore, incoming } = options;
  // A terminal that is the guest's is not covered with our steps.
  const level = options.level ?? (isJson ? 'error' : config.serial.includes('stdio') ? 'warn' : 'info');
  const title = incoming === undefined ? undefined : `a machine that moves to ${incoming.address}`;
  const printer = new RunPrinter({ config, title, sandbox, out, level, isJson, startMs: processStartMs() });
  const vm =
    incoming !== undefined
      ? await received(incoming, printer)
      : restore === undefined
        ? VirtualMachine.start(config, printer.observer)
        : VirtualMachine.restore(restore.folder, restore.changes, printer.observer);
  let signals: Disposable | undefined;
  let camera: Camera | undefined;
  let view: View | undefined;
  let terminal: Disposable | undefined;
  let api: AsyncDisposable | undefined;
  try {
    out.onFailure = () => vm.stop('SIGPIPE');
    signals = stopOnSignals((signal) => vm.stop(signal));
    terminal = await openTerminal(vm, printer);
    const say = (text: string) => void (printer.prints('info') && printer.print(`tsvisor: ${text}`));
    if (screenshot !== undefined) camera = new Camera(vm, screenshot, display, say);
    view = await openView(
      vm,
      options.viewPort,
      printer.prints('info') ? (text) => printer.print(text) : (text) => console.error(text),
      display,
    );
    api = await openApi(vm, options.socket, say);
    const report = await vm.finished;
    terminal?.[Symbol.dispose]();
    await camera?.take();
    if (isJson) out.line(JSON.stringify(report));
    else if (printer.prints('info')) printer.print(summaryText(report, processStartMs()));
    else if (report.outcome.kind === 'crashed') console.error(`tsvisor: ${report.outcome.title}`);
    const status = exitStatus(report.outcome);
    return status === 0 && camera?.hasSaved === false ? EX_UNAVAILABLE : status;
  } finally {
    terminal?.[Symbol.dispose]();
    camera?.[Symbol.dispose]();
    await vm[Symbol.asyncDispose]();
    await view?.[Symbol.asyncDispose]();
    await api?.[Symbol.asyncDispose]();
    signals?.[Symbol.dispose]();
  }
}

/** Waits for a machine, until a signal comes. @throws as VirtualMachine.receive; Error named after the signal */
async function received(incoming: IncomingRequest, printer: RunPrinter): Promise<VirtualMachine> {
  const { receive } = await import('./cli-incoming.js');
  const controller = new AbortController();
  using _signals = stopOnSignals((signal) => controller.abort(new Error(`no machine came before ${signal}`)));
  const say = (text: string) => void (printer.prints('info') && printer.print(`tsvisor: ${text}`));
  return receive(incoming, printer.observer, say, controller.signal);
}

/** Connects stdin with the serial port at `stdio`, if there is one. */
async function openTerminal(vm: VirtualMachine, printer: RunPrinter): Promise<Disposable | undefined> {
  const port = printer.terminalPort;
  if (port < 0) return undefined;
  const { SerialTerminal } = await import('./serial-terminal.js');
  return SerialTerminal.open(vm, { port, print: (line) => void printer.print(line) });
}

/** Names the option, or the file, that each problem of the configuration comes from. */
function named({ problems }: ConfigError, options: ParsedOptions): ConfigError {
  return new ConfigError(
    problems.map(({ path, text }) => {
      const source = sourceOf(path, options);
      if (source === undefined) return { path, text };
      const plain = source.startsWith('--net ') ? text.replace(/^net: /, '') : text;
      return { path: source, text: plain.replace(/\b(?:devices|serial)\[\d+\](?='s)/, ownerOf) };
    }),
  );

  /** An entry of a list that the command line has no name for, by the option that gave it. */
  function ownerOf(entry: string): string {
    const [name = '', index = ''] = entry.split(/[[\]]/);
    const disk = name === 'devices' ? diskAt(Number(index), options) : undefined;
    if (disk !== undefined) return `--disk ${disk}`;
    const list = options.list(name === 'devices' ? 'device' : name);
    return list === undefined ? entry : `--${name === 'devices' ? 'device' : name} ${list[Number(index)]}`;
  }
}

const OPTION_OF: Readonly<Record<string, string>> = {
  memory: 'memory',
  sharedMemory: 'memory',
  prefault: 'memory',
  hugePages: 'memory',
  vcpus: 'cpus',
  guest: 'guest',
  kernel: 'kernel',
  initrd: 'initrd',
  cmdline: 'append',
  reboot: 'no-reboot',
  plugins: 'plugin',
  vgpuCards: 'vgpu-card',
  ffi: 'ffi',
  dirtyRing: 'dirty-ring',
  trace: 'trace',
  sandbox: 'sandbox',
  serial: 'serial',
};

/** The disk that the command line added as this entry of `devices`, behind all others. */
function diskAt(index: number, options: ParsedOptions): string | undefined {
  const disks = options.list('disk');
  if (disks === undefined) return undefined;
  const file = options.value('config');
  const given = options.list('device')?.filter((text) => text !== 'none');
  const configured =
    file === undefined || options.has('net') ? undefined : (readConfigFile(file) as VmConfigInput).devices;
  return disks[index - (given ?? configured ?? ['the default NIC']).length];
}

/** @param path in the configuration: `devices[0].slot` */
function sourceOf(path: string, options: ParsedOptions): string | undefined {
  if (path.startsWith('-')) return undefined;
  const [, key = '', index, rest = ''] = /^(\w+)(?:\[(\d+)\])?(.*)$/.exec(path) ?? [];
  const devices = options.list('device')?.filter((text) => text !== 'none');
  if (key === 'devices' && devices !== undefined && index === undefined) return '--device';
  const disk = index === undefined ? undefined : diskAt(Number(index), options);
  if (key === 'devices' && disk !== undefined)
    return `--disk ${disk}${rest === '' ? '' : `, ${rest.slice(1)}`}`;
  if (key === 'devices' && devices !== undefined)
    return `--device ${devices[Number(index)]}${rest === '' ? '' : `, ${rest.slice(1)}`}`;
  if (key === 'devices' && options.has('net')) return `--net ${options.value('net')}`;
  if (key === 'devices' && options.has('pcap')) return `--pcap ${options.value('pcap')}`;
  const option = OPTION_OF[key];
  if (option !== undefined && options.has(option)) return `--${option}`;
  const file = options.value('config');
  return file === undefined ? undefined : `--config ${file}, ${path}`;
}

/** Collects problems, so that one run of the command shows them all. */
class Problems {
  readonly #list: ConfigProblem[] = [];

  /** The result of `parse`, or undefined if it throws ConfigError. */
  of<T>(parse: () => T): T | undefined {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      this.#list.push(...error.problems);
      return undefined;
    }
  }

  /** @throws ConfigError if there are any */
  throwAny(): void {
    if (this.#list.length > 0) throw new ConfigError(this.#list);
  }
}

function configOf(options: ParsedOptions, problems: Problems, level: LogLevel | undefined): VmConfigInput {
  const file = options.value('config');
  const base = (file === undefined ? {} : readConfigFile(file)) as VmConfigInput;
  const config: Record<string, unknown> = { ...base };
  const memory = options.value('memory');
  if (memory !== undefined)
    Object.assign(
      config,
      problems.of(() => parseMemory(memory)),
    );
  const cpus = options.value('cpus');
  if (cpus !== undefined) config.vcpus = problems.of(() => parseCpus(cpus));
  for (const name of ['guest', 'kernel', 'initrd', 'ffi'])
    if (options.has(name)) config[name] = options.value(name);
  const ring = options.value('dirty-ring');
  if (ring !== undefined) config.dirtyRing = problems.of(() => parseDirtyRing(ring));
  if (options.has('no-reboot')) config.reboot = false;
  const append = options.value('append');
  if (append !== undefined) config.cmdline = problems.of(() => joined(base.cmdline, append, file));
  const plugins = options.list('plugin');
  if (plugins !== undefined) config.plugins = plugins;
  else if (file !== undefined && base.plugins !== undefined) config.plugins = pluginsOf(file, base);
  const cards = options.list('vgpu-card');
  // One that is wrong has been reported, and is left out.
  if (cards !== undefined)
    config.vgpuCards = cards.flatMap((text) => problems.of(() => parseVgpuCard(text)) ?? []);
  const sandbox = options.value('sandbox');
  if (sandbox !== undefined) config.sandbox = problems.of(() => parseSandbox(sandbox));
  const trace = options.list('trace');
  if (trace !== undefined) config.trace = trace;
  if (level === 'debug') config.trace = [...new Set([...(trace ?? base.trace ?? []), ...DEBUG_CHANNELS])];
  const serial = options.list('serial');
  if (serial !== undefined) config.serial = serial;
  const devices = devicesOf(options, base.devices, problems);
  const disks = options
    .list('disk')
    ?.map((text) => problems.of(() => parseDisk(text)) ?? { address: 'wrong' });
  config.devices = disks !== undefined && Array.isArray(devices) ? [...devices, ...disks] : devices;
  return config as VmConfigInput;
}

/** @param configured of the file, where it can be anything */
function joined(configured: unknown, append: string, file: string | undefined): string {
  if (configured !== undefined && typeof configured !== 'string')
    throw usageError(`--config ${file}, cmdline`, `${shown(configured)} is not a text`);
  return [configured, append].filter(Boolean).join(' ');
}

/** Plug-in paths in a configuration file are relative to that file. */
function pluginsOf(file: string, { plugins }: VmConfigInput): VmConfigInput['plugins'] {
  if (!Array.isArray(plugins) || !plugins.every((plugin) => typeof plugin === 'string')) return plugins;
  return [...pluginUrls(plugins, dirname(resolve(file)))];
}

function devicesOf(
  options: ParsedOptions,
  configured: VmConfigInput['devices'],
  problems: Problems,
): readonly unknown[] {
  const [devices, net, pcap] = [options.list('device'), options.value('net'), options.value('pcap')];
  if (devices !== undefined) {
    if (pcap !== undefined)
      throw usageError('--pcap', 'belongs to the default NIC; with --device, append pcap= to the device');
    if (net !== undefined)
      throw usageError('--net', 'belongs to the default NIC; with --device, append net= to the device');
    if (devices.length > 1 && devices.includes('none'))
      throw usageError('--device', 'none is no device: give it alone');
    // One that is wrong stays in its place, with an address that is right, so that the others keep their names.
    return devices
      .filter((text) => text !== 'none')
      .map((text) => problems.of(() => parseDevice(text, `--device ${text}`)) ?? { address: 'wrong' });
  }
  if (configured !== undefined && net === undefined) {
    if (pcap !== undefined)
      throw usageError('--pcap', 'belongs to the default NIC; in a configuration, give pcap to the device');
    return configured;
  }
  return [
    { address: 'virtio-net', options: { net: net ?? 'responder', ...(pcap !== undefined && { pcap }) } },
  ];
}

/** What `--memory` takes behind the size, and what each value is in the configuration. */
const MEMORY_OPTIONS = new Map<string, { readonly key: string; readonly values: Map<string, unknown> }>([
  ['shared', { key: 'sharedMemory', values: new Map(Object.entries({ on: true, off: false })) }],
  ['prefault', { key: 'prefault', values: new Map(Object.entries({ on: true, off: false })) }],
  [
    'hugepages',
    { key: 'hugePages', values: new Map(Object.entries({ on: '2M', off: 'off', '2M': '2M', '1G': '1G' })) },
  ],
]);

/** `1G,shared=on,prefault=off,hugepages=2M` */
function parseMemory(text: string): Record<string, unknown> {
  const [size, ...rest] = text.split(',');
  const flags = new Map<string, unknown>();
  for (const pair of rest) {
    const [, name = '', value = ''] = /^(.*?)=(.*)$/.exec(pair) ?? [];
    const option = MEMORY_OPTIONS.get(name);
    if (option?.values.has(value) !== true)
      throw usageError(
        '--memory',
        `'${pair}' is none of shared=on|off, prefault=on|off, hugepages=on|off|2M|1G`,
      );
    if (flags.has(option.key)) throw usageError('--memory', `${name}= is given twice`);
    flags.set(option.key, option.values.get(value));
  }
  return { memory: size, ...Object.fromEntries(flags) };
}

/** `strict,read=/usr/share/x,write=/run/y` */
function parseSandbox(text: string): Record<string, unknown> {
  const [mode = '', ...rest] = text.split(',');
  if (!/^(?:|off|on|strict|log)$/.test(mode))
    throw usageError(
      '--sandbox',
      `${shown(mode)} is none of on, strict, log, off${didYouMean(mode, ['strict', 'log', 'off'])}`,
    );
  const paths: Record<string, string[]> = { read: [], write: [] };
  for (const pair of rest) {
    const [, name = '', path = ''] = /^(read|write)=(.+)$/.exec(pair) ?? [];
    if (name === '') throw usageError('--sandbox', `'${pair}' is none of read=PATH, write=PATH`);
    paths[name]?.push(path);
  }
  return { mode: mode === '' ? 'on' : mode, ...paths };
}

function parseCpus(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  throw usageError('--cpus', `'${text}' is not a number of CPUs, 1 to 64`);
}

/** When this process started, in milliseconds on the monotonic clock shared by all threads. */
const processStartMs = (): number => monotonicMs() - process.uptime() * 1000;

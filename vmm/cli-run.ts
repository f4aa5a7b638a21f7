import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { fromNodeError } from '../sys/error.js';
import type { VmConfigInput } from './config.js';
import { ConfigError } from './config-error.js';
import { parseAddress } from './device-address.js';
import { Camera } from './display/camera.js';
import type { View } from './display/view.js';
import { openView, parsePort, withViewPort } from './display/view-port.js';
import { EX_UNAVAILABLE, exitStatus, SIGNAL_STATUS } from './outcome.js';
import { LineSplitter, Output } from './output.js';
import { pluginUrls } from './plugin-url.js';
import { monotonicMs } from './protocol.js';
import { stopOnSignals } from './stop-signals.js';
import { printSummary } from './summary.js';
import { VirtualMachine, type VmObserver } from './virtual-machine.js';

const options = {
  net: { type: 'string' },
  device: { type: 'string', multiple: true },
  memory: { type: 'string' },
  cpus: { type: 'string' },
  guest: { type: 'string' },
  kernel: { type: 'string' },
  initrd: { type: 'string' },
  'no-reboot': { type: 'boolean' },
  append: { type: 'string' },
  config: { type: 'string' },
  plugin: { type: 'string', multiple: true },
  ffi: { type: 'string' },
  trace: { type: 'string', multiple: true },
  screenshot: { type: 'string' },
  display: { type: 'string' },
  view: { type: 'string' },
  json: { type: 'boolean' },
  quiet: { type: 'boolean' },
} as const;

/** How long a stopped process waits until its output is read. */
const READER_MS = 1000;

type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];

/** Runs `tsvisor run`. Returns the exit code. @throws ConfigError, or the error that prevented the run */
export async function run(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: withViewPort(args), options, strict: true });
  const isQuiet = values.quiet === true || values.json === true;
  const display = parseDisplay(values.display);
  const viewPort = parsePort(values.view);
  const vm = VirtualMachine.start(configOf(values), isQuiet ? quietly(values) : aloud());
  if (!isQuiet) printHeading(vm);
  const say = isQuiet ? () => {} : (text: string) => console.log(`tsvisor: ${text}`);
  const signals = stopOnSignals((signal) => vm.stop(signal));
  const camera =
    values.screenshot === undefined ? undefined : new Camera(vm, values.screenshot, display, say);
  let view: View | undefined;
  try {
    view = await openView(vm, viewPort, isQuiet, display);
    const report = await vm.finished;
    await camera?.take();
    if (values.json === true) console.log(JSON.stringify(report));
    else if (!isQuiet) printSummary(report, processStartMs());
    else if (report.outcome.kind === 'crashed') console.error(`tsvisor: ${report.outcome.title}`);
    // The guest may have ended by itself before it could be stopped.
    if (signals.isReaderGone()) return SIGNAL_STATUS.SIGPIPE;
    const status = exitStatus(report.outcome);
    if (report.outcome.kind === 'stopped') await leaveUnread(status);
    return status === 0 && camera?.hasSaved === false ? EX_UNAVAILABLE : status;
  } finally {
    camera?.[Symbol.dispose]();
    await vm[Symbol.asyncDispose]();
    await view?.[Symbol.asyncDispose]();
    signals[Symbol.dispose]();
  }
}

function configOf(values: Values): VmConfigInput {
  const base = values.config === undefined ? {} : readConfig(values.config);
  const config: Record<string, unknown> = { ...base };
  if (values.memory !== undefined) Object.assign(config, parseMemory(values.memory));
  if (values.cpus !== undefined) config.vcpus = Number(values.cpus);
  if (values.guest !== undefined) config.guest = values.guest;
  if (values.kernel !== undefined) config.kernel = values.kernel;
  if (values.initrd !== undefined) config.initrd = values.initrd;
  if (values['no-reboot'] !== undefined) config.reboot = false;
  if (values.append !== undefined) config.cmdline = [base.cmdline, values.append].filter(Boolean).join(' ');
  if (values.plugin !== undefined) config.plugins = values.plugin;
  else if (values.config !== undefined && base.plugins !== undefined)
    config.plugins = pluginsOf(values.config, base);
  if (values.ffi !== undefined) config.ffi = values.ffi;
  if (values.trace !== undefined) config.trace = values.trace;
  config.devices = devicesOf(values, base.devices);
  return config as VmConfigInput;
}

function readConfig(path: string): VmConfigInput {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNodeError(error, 'open', `configuration ${path}`);
  }
  try {
    return JSON.parse(text) as VmConfigInput;
  } catch (error) {
    throw new ConfigError([{ path, text: `is not JSON: ${(error as Error).message}` }]);
  }
}

/** Plug-in paths in a configuration file are relative to that file. */
function pluginsOf(file: string, { plugins }: VmConfigInput): VmConfigInput['plugins'] {
  // Any other type is rejected when the whole configuration is validated.
  if (!Array.isArray(plugins) || !plugins.every((plugin) => typeof plugin === 'string')) return plugins;
  return [...pluginUrls(plugins, dirname(resolve(file)), `${file}: plugins`)];
}

function devicesOf(values: Values, configured: VmConfigInput['devices']): readonly unknown[] {
  if (values.device !== undefined) {
    if (values.net !== undefined) {
      throw new ConfigError([
        { path: '--net', text: 'belongs to the default NIC; with --device, append net= to the device' },
      ]);
    }
    return values.device.filter((text) => text !== 'none').map(parseDevice);
  }
  if (configured !== undefined && values.net === undefined) return configured;
  return [{ address: 'virtio-net', options: { net: values.net ?? 'responder' } }];
}

/** `1G,shared=on,prefault=off` */
function parseMemory(text: string): Record<string, unknown> {
  const [size, ...rest] = text.split(',');
  const flags = rest.map((pair) => {
    const [, name, value] = /^(shared|prefault)=(on|off)$/.exec(pair) ?? [];
    if (name !== undefined) return [name === 'shared' ? 'sharedMemory' : name, value === 'on'];
    const hint = `'${pair}' is none of shared=on|off, prefault=on|off`;
    throw new ConfigError([{ path: '--memory', text: hint }]);
  });
  return { memory: size, ...Object.fromEntries(flags) };
}

function parseDisplay(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,2}$/.test(text)) return Number(text);
  throw new ConfigError([{ path: '--display', text: `'${text}' is not a PCI slot: 1 to 31` }]);
}

function parseDevice(text: string, index: number): unknown {
  const { address, options: deviceOptions } = parseAddress(text, `--device [${index}]`);
  const { slot, interface: how, ...others } = deviceOptions;
  return {
    address,
    options: others,
    ...(slot === undefined ? {} : { slot: Number(slot) }),
    ...(how === undefined ? {} : { interface: how }),
  };
}

/** A process that was told to stop does not wait for a reader of its output: it ends with `status` after a second. */
async function leaveUnread(status: number): Promise<void> {
  const streams = [process.stdout, process.stderr].map((stream) => new Output(stream).flush(READER_MS));
  if ((await Promise.all(streams)).includes(false)) process.exit(status);
}

/** When this process started, in milliseconds on the monotonic clock shared by all threads. */
const processStartMs = (): number => monotonicMs() - process.uptime() * 1000;

function printHeading({ config }: VirtualMachine): void {
  const guest = config.kernel ?? config.guest ?? 'built-in guest';
  const cpus = config.vcpus === 1 ? '1 vCPU' : `${config.vcpus} vCPUs`;
  console.log(`tsvisor: ${guest}, ${cpus}, ${config.memory >> 20n} MiB`);
}

/** Prints steps as they happen, and prefixes the guest's lines. */
function aloud(): VmObserver {
  const start = processStartMs();
  const out = new Output(process.stdout);
  const lines = new LineSplitter((line) => out.line(`guest | ${line}`));
  return {
    step: (text, at) => out.line(`${(at - start).toFixed(1).padStart(8)} ms  ${text}`),
    serial: (bytes) => lines.push(bytes),
    trace: (channel, text) => out.line(`trace ${channel} ${text}`),
  };
}

function quietly(values: Values): VmObserver {
  const [out, error] = [new Output(process.stdout), new Output(process.stderr)];
  return {
    ...(values.json === true ? {} : { serial: (bytes: Uint8Array) => out.write(bytes) }),
    trace: (channel, text) => error.line(`trace ${channel} ${text}`),
  };
}

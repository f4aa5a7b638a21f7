import { statSync } from 'node:fs';
import { isErrno } from '../sys/error.js';
import { didYouMean } from '../sys/suggestion.js';
import { type TraceName, trace } from '../sys/trace.js';
import { SERVE } from './cli-help.js';
import { parseCommandLine, usageError } from './command-line.js';
import { ConfigError } from './config-error.js';
import { parseAddress } from './device-address.js';
import {
  DeviceServer,
  type DeviceServerObserver,
  type ServedDeviceConfig,
  type ServeOptions,
  type VgpuVfsConfig,
} from './device-server.js';
import { Camera } from './display/camera.js';
import { checkDisplay } from './display/choice.js';
import { openView, parsePort } from './display/view-port.js';
import { DEBUG_CHANNELS, givenLevel, isPrinted, type LogLevel } from './log-level.js';
import { SIGNAL_STATUS } from './outcome.js';
import { errorOutput, type Output } from './output.js';
import { shown } from './problem-text.js';
import { socketProblem } from './serial-end.js';
import { stopOnSignals } from './stop-signals.js';
import { MOST_VFS, VGPU_TYPE } from './vf-sysfs.js';
import { parseVgpuCard, type VgpuCardInput } from './vgpu-cards.js';

const isTraceName = (name: string): name is TraceName => Object.hasOwn(trace, name);

/** Runs `tsvisor serve`. Returns the exit code. @throws ConfigError, or the error that prevented serving the device */
export async function serve(args: readonly string[], out: Output): Promise<number> {
  const options = parseCommandLine(SERVE, args);
  const folder = options.value('vf-sysfs');
  const sockets = options.list('socket') ?? [];
  const devices =
    folder === undefined
      ? servedDevices(options.positionals, sockets)
      : vfDevices(options.positionals, sockets, folder);
  const names = options.list('trace') ?? [];
  const unknown = names.find((name) => !isTraceName(name));
  if (unknown !== undefined)
    throw usageError(
      '--trace',
      `${shown(unknown)} is not one of ${Object.keys(trace).join(', ')}${didYouMean(unknown, Object.keys(trace))}`,
    );
  const level = givenLevel(options) ?? 'info';
  const say = (text: string, of: LogLevel = 'info') => {
    if (isPrinted(of, level)) out.line(`tsvisor: ${text}`);
  };
  const view = parsePort(options.value('view'));
  const screenshot = options.value('screenshot');
  checkDisplay(devices, { screenshot, view });
  const cards = (options.list('vgpu-card') ?? []).map(parseVgpuCard) as readonly VgpuCardInput[];
  if (folder !== undefined && cards.length > 1)
    throw usageError('--vgpu-card', 'is there twice: the VFs of --vf-sysfs are those of one card');
  const id = options.value('vf-id');
  if (id !== undefined && folder === undefined) throw usageError('--vf-id', 'is for the VFs of --vf-sysfs');
  const vfs = folder === undefined ? undefined : { folder, id };
  const started = {
    trustsClient: options.has('trust-client'),
    plugins: options.list('plugin') ?? [],
    vgpuCards: cards,
    trace: [...new Set([...names.filter(isTraceName), ...(level === 'debug' ? DEBUG_CHANNELS : [])])],
  };
  const observer = {
    ready: (description: string, path: string) => {
      say(description);
      say(`serves it at ${path}`);
    },
    told: say,
    trace: (channel: string, text: string) => void errorOutput().line(`trace ${channel} ${text}`),
  };
  try {
    await using server = startServer(vfs, devices, started, observer);
    let by: string | undefined;
    const stop = (signal: string) => {
      by = signal;
      server.stop();
    };
    out.onFailure = () => stop('SIGPIPE');
    using _signals = stopOnSignals(stop);
    using camera =
      screenshot === undefined ? undefined : new Camera(server, screenshot, undefined, (text) => say(text));
    await using _view = await openView(
      server,
      view,
      isPrinted('info', level) ? (text) => out.line(text) : (text) => console.error(text),
    );
    await server.finished;
    await camera?.take();
    return by === undefined ? 0 : SIGNAL_STATUS[by as keyof typeof SIGNAL_STATUS];
  } catch (error) {
    throw error instanceof ConfigError ? named(error, devices) : error;
  }
}

function startServer(
  vfs: Omit<VgpuVfsConfig, 'sockets'> | undefined,
  devices: readonly [NamedDevice, ...NamedDevice[]],
  options: ServeOptions,
  observer: DeviceServerObserver,
): DeviceServer {
  const [first, ...beside] = devices;
  if (vfs === undefined) return DeviceServer.start({ ...options, ...first, beside }, observer);
  return DeviceServer.startVfs({ ...options, ...vfs, sockets: devices.map(({ path }) => path) }, observer);
}

type NamedDevice = ServedDeviceConfig & { readonly where: string };

/** The devices with their sockets, in order; at least one. @throws ConfigError for one without the other, or a wrong one */
function servedDevices(
  addresses: readonly string[],
  sockets: readonly string[],
): readonly [NamedDevice, ...NamedDevice[]] {
  if (addresses.length === 0)
    throw usageError('serve', 'takes a device: tsvisor serve virtio-net,net=passt --socket /run/nic.sock');
  requireSockets(sockets);
  if (sockets.length !== addresses.length)
    throw usageError(
      '--socket',
      `is there ${times(sockets.length)} for ${count(addresses.length)}: each has its own`,
    );
  const devices = addresses.map((text, i) => {
    const path = socketPath(sockets, i);
    const where = `serve ${text}`;
    const device = parseAddress(text, where);
    for (const name of ['slot', 'interface'])
      if (device.options[name] !== undefined)
        throw usageError(where, `${name}= is for a device of a machine; a client has its own`);
    return { ...device, path, where };
  });
  return devices as unknown as readonly [NamedDevice, ...NamedDevice[]];
}

/** What the VFs become, of which nobody knows before they do. @throws ConfigError */
function vfDevices(
  addresses: readonly string[],
  sockets: readonly string[],
  folder: string,
): readonly [NamedDevice, ...NamedDevice[]] {
  if (addresses.length > 0)
    throw usageError('--vf-sysfs', `is in place of devices: leave ${shown(addresses[0] as string)} out`);
  const problem = folderProblem(folder);
  if (problem !== undefined) throw usageError('--vf-sysfs', problem);
  requireSockets(sockets);
  if (sockets.length > MOST_VFS)
    throw usageError('--socket', `is there ${times(sockets.length)}: a card has at most ${MOST_VFS} VFs`);
  const devices = sockets.map((_, i) => ({
    address: VGPU_TYPE,
    path: socketPath(sockets, i),
    where: '--vf-sysfs',
  }));
  return devices as unknown as readonly [NamedDevice, ...NamedDevice[]];
}

/** Why nothing can be mounted there; undefined if that is not known. */
function folderProblem(folder: string): string | undefined {
  if (folder === '') return 'is empty: it takes a folder without anything in it';
  try {
    return statSync(folder).isDirectory() ? undefined : `${shown(folder)} is no directory`;
  } catch (error) {
    return isErrno(error, 'ENOENT') ? `there is no directory ${shown(folder)}` : undefined;
  }
}

function requireSockets(sockets: readonly string[]): void {
  if (sockets.length === 0) throw usageError('--socket', 'is missing: the path where clients connect');
}

/** @throws ConfigError for a path that cannot be a socket's, or is another one's */
function socketPath(sockets: readonly string[], i: number): string {
  const path = (sockets[i] as string).replace(/^unix:/, ''); // as --api and --serial have it
  const problem = socketProblem(path);
  if (problem !== undefined) throw usageError('--socket', problem);
  if (sockets.indexOf(sockets[i] as string) !== i)
    throw usageError('--socket', `${shown(path)} is there twice`);
  return path;
}

const times = (number: number) => (number === 1 ? 'once' : `${number} times`);
const count = (devices: number) => (devices === 1 ? '1 device' : `${devices} devices`);

const named = ({ problems }: ConfigError, devices: readonly NamedDevice[]): ConfigError =>
  new ConfigError(
    problems.map(({ path, text }) => {
      if (path.startsWith('plugins')) return { path: '--plugin', text };
      if (path === 'id') return { path: '--vf-id', text };
      if (path.startsWith('sockets')) return { path: '--socket', text };
      if (path.startsWith('vgpuCards')) return { path: '--vgpu-card', text };
      const of = /^devices\[(\d+)\]/.exec(path);
      const where = of === null ? undefined : devices[Number(of[1])]?.where;
      return { path: where ?? path, text };
    }),
  );

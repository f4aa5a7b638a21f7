import { didYouMean } from '../sys/suggestion.js';
import { type TraceName, trace } from '../sys/trace.js';
import { SERVE } from './cli-help.js';
import { parseCommandLine, usageError } from './command-line.js';
import { ConfigError } from './config-error.js';
import { parseAddress } from './device-address.js';
import { DeviceServer } from './device-server.js';
import { Camera } from './display/camera.js';
import { checkDisplay } from './display/choice.js';
import { openView, parsePort } from './display/view-port.js';
import { DEBUG_CHANNELS, givenLevel, isPrinted, type LogLevel } from './log-level.js';
import { SIGNAL_STATUS } from './outcome.js';
import { errorOutput, type Output } from './output.js';
import { shown } from './problem-text.js';
import { socketProblem } from './serial-end.js';
import { stopOnSignals } from './stop-signals.js';
import { parseVgpuCard, type VgpuCardInput } from './vgpu-cards.js';

const isTraceName = (name: string): name is TraceName => Object.hasOwn(trace, name);

/** Runs `tsvisor serve`. Returns the exit code. @throws ConfigError, or the error that prevented serving the device */
export async function serve(args: readonly string[], out: Output): Promise<number> {
  const options = parseCommandLine(SERVE, args);
  const [device, ...others] = options.positionals;
  if (device === undefined || others.length > 0)
    throw usageError('serve', 'takes one device: tsvisor serve virtio-net,net=passt --socket /run/nic.sock');
  // As --api and --serial have it.
  const socket = options.value('socket')?.replace(/^unix:/, '');
  if (socket === undefined) throw usageError('--socket', 'is missing: the path where clients connect');
  const problem = socketProblem(socket);
  if (problem !== undefined) throw usageError('--socket', problem);
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
  const where = `serve ${device}`;
  const served = parseAddress(device, where);
  for (const name of ['slot', 'interface'])
    if (served.options[name] !== undefined)
      throw usageError(where, `${name}= is for a device of a machine; a client has its own`);
  checkDisplay([served], { screenshot, view });
  const cards = (options.list('vgpu-card') ?? []).map(parseVgpuCard) as readonly VgpuCardInput[];
  const started = {
    ...served,
    path: socket,
    trustsClient: options.has('trust-client'),
    plugins: options.list('plugin') ?? [],
    vgpuCards: cards,
    trace: [...new Set([...names.filter(isTraceName), ...(level === 'debug' ? DEBUG_CHANNELS : [])])],
  };
  const observer = {
    ready: (description: string) => {
      say(description);
      say(`serves it at ${socket}`);
    },
    told: say,
    trace: (channel: string, text: string) => void errorOutput().line(`trace ${channel} ${text}`),
  };
  try {
    await using server = DeviceServer.start(started, observer);
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
    throw error instanceof ConfigError ? named(error, where) : error;
  }
}

const named = ({ problems }: ConfigError, where: string): ConfigError =>
  new ConfigError(
    problems.map(({ path, text }) => {
      if (path.startsWith('plugins')) return { path: '--plugin', text };
      if (path.startsWith('vgpuCards')) return { path: '--vgpu-card', text };
      return path.startsWith('devices') ? { path: where, text } : { path, text };
    }),
  );

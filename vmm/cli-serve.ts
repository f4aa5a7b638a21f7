import { parseArgs } from 'node:util';
import { type TraceName, trace } from '../sys/trace.js';
import { ConfigError } from './config-error.js';
import { parseAddress } from './device-address.js';
import { DeviceServer } from './device-server.js';
import { Camera } from './display/camera.js';
import { openView, parsePort, withViewPort } from './display/view-port.js';
import { SIGNAL_STATUS } from './outcome.js';
import { stopOnSignals } from './stop-signals.js';

const options = {
  socket: { type: 'string' },
  plugin: { type: 'string', multiple: true },
  'trust-client': { type: 'boolean' },
  trace: { type: 'string', multiple: true },
  screenshot: { type: 'string' },
  view: { type: 'string' },
  quiet: { type: 'boolean' },
} as const;

const isTraceName = (name: string): name is TraceName => Object.hasOwn(trace, name);

/** Runs `tsvisor serve`. Returns the exit code. @throws ConfigError, or the error that prevented serving the device */
export async function serve(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: withViewPort(args),
    options,
    strict: true,
    allowPositionals: true,
  });
  const [device, ...others] = positionals;
  const wrong = (path: string, text: string) => new ConfigError([{ path, text }]);
  if (device === undefined || others.length > 0)
    throw wrong('serve', 'takes one device: tsvisor serve virtio-net,net=passt --socket /run/nic.sock');
  const { socket } = values;
  if (socket === undefined) throw wrong('--socket', 'is missing: the path where clients connect');
  const names = values.trace ?? [];
  const unknown = names.find((name) => !isTraceName(name));
  if (unknown !== undefined)
    throw wrong('--trace', `'${unknown}' is none of ${Object.keys(trace).join(', ')}`);
  const say = (text: string) => {
    if (values.quiet !== true) console.log(text);
  };
  const viewPort = parsePort(values.view);
  await using server = DeviceServer.start(
    {
      ...parseAddress(device, 'serve'),
      path: socket,
      trustsClient: values['trust-client'] ?? false,
      plugins: values.plugin ?? [],
      trace: names.filter(isTraceName),
    },
    {
      ready: (description) => say(`tsvisor: ${description}\ntsvisor: serves it at ${socket}`),
      told: (text) => say(`tsvisor: ${text}`),
      trace: (channel, text) => console.error(`trace ${channel} ${text}`),
    },
  );
  let by: string | undefined;
  using _signals = stopOnSignals((signal) => {
    by = signal;
    server.stop();
  });
  using camera =
    values.screenshot === undefined
      ? undefined
      : new Camera(server, values.screenshot, undefined, (text) => say(`tsvisor: ${text}`));
  await using _view = await openView(server, viewPort, values.quiet === true);
  await server.finished;
  await camera?.take();
  return by === undefined ? 0 : SIGNAL_STATUS[by as keyof typeof SIGNAL_STATUS];
}

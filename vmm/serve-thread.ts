/** The program of the thread that owns a served device. @see device-server.ts, its other side */
import { type MessagePort, parentPort } from 'node:worker_threads';
import { EventThreadClient, type EventThreadLink } from '../sys/event-thread.js';
import { Inbox } from '../sys/inbox.js';
import { setThreadName } from '../sys/libc.js';
import { deferUnmapping, type MappedRange } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import { threadData } from '../sys/thread-ahead.js';
import { type TraceName, trace } from '../sys/trace.js';
import { requireProvider } from '../vfio/assign/index.js';
import { VfioProvider } from '../vfio/provider.js';
import { openForClient, VfioUserServer } from '../vfio/user/index.js';
import { configuredPlugins } from './configured-plugins.js';
import { checkDevices } from './device-check.js';
import { giveFaults } from './device-faults.js';
import type { ScreenCommand, ScreenEvent } from './display/messages.js';
import { ServedDisplay } from './display/served-display.js';
import { type ErrorData, encodeError } from './error-data.js';
import { container as root } from './injection.js';
import { loadPlugins } from './plugin.js';
import { configurePorts, registerPorts, withPluginNamed } from './plugin-ports.js';
import { traceText } from './trace-text.js';
import type { VgpuCardConfig } from './vgpu-cards.js';

/** Data that starts the thread. */
export interface ServeThreadData {
  readonly address: string;
  readonly options: Readonly<Record<string, string>>;
  readonly path: string;
  readonly trustsClient: boolean;
  readonly plugins: readonly string[];
  readonly vgpuCards: readonly VgpuCardConfig[];
  readonly trace: readonly TraceName[];
  readonly control: SharedArrayBuffer;
  readonly commands: MessagePort;
  readonly events: EventThreadLink;
}

/** Commands of the main thread. */
export type ServeCommand =
  | ScreenCommand
  | { readonly kind: 'inject'; readonly id: number; readonly faults: string };

/** Events from the serving thread to the main thread. */
export type ServeEvent =
  | { readonly kind: 'ready'; readonly description: string }
  | { readonly kind: 'told'; readonly text: string; readonly level: 'info' | 'warn' }
  | { readonly kind: 'trace'; readonly channel: string; readonly text: string }
  | ScreenEvent
  /** Answers a command `inject`. */
  | { readonly kind: 'injected'; readonly id: number; readonly error?: ErrorData }
  | { readonly kind: 'failed'; readonly error: ErrorData }
  /** The last event: memory to unmap once no thread can access it. */
  | { readonly kind: 'ended'; readonly mapped: readonly MappedRange[] };

const data = threadData as ServeThreadData;
const emit = (event: ServeEvent): void => parentPort?.postMessage(event);

async function main(): Promise<void> {
  setThreadName('tsvisor-serve');
  const inbox = new Inbox(data.control);
  const display = new ServedDisplay(data.address);
  let server: VfioUserServer | undefined;
  inbox.addPort(data.commands, (message) => {
    const command = message as ServeCommand;
    const { kind, id } = command;
    if (kind === 'inject')
      emit({ kind: 'injected', id, ...refusalOf(() => giveFaults(device, data.address, command.faults)) });
    else if (kind === 'displays') emit({ kind, id, displays: display.list() });
    else emit({ kind, id, answer: display.look(command.isCopied === true, server?.commands ?? 0) });
  });
  // The protocol's events with a text are refusals.
  for (const [name, level] of [
    ['vfioUser', 'warn'],
    ['vfio', 'info'],
  ] as const) {
    trace[name].subscribe(({ text }: { readonly text?: string }) => {
      if (text !== undefined) emit({ kind: 'told', text, level });
    });
  }
  for (const channel of data.trace)
    trace[channel].subscribe((event: object) => emit({ kind: 'trace', channel, text: traceText(event) }));
  using scope = new Scope();
  const eventThread = new EventThreadClient(data.events, inbox);
  const container = root.createChildContainer();
  const loaded = await loadPlugins(data.plugins);
  const isHostile = data.options.hostile !== undefined;
  const plugins = await configuredPlugins(loaded, { cards: data.vgpuCards, isHostile });
  configurePorts(container, plugins, scope);
  registerPorts(container, plugins, { eventThread }, scope);
  const providers = container.resolveAll<VfioProvider>(VfioProvider);
  checkDevices(providers, [data]);
  const provider = requireProvider(providers, data.address);
  // A server's requests for memory of our client's are forwarded by this thread, which alone speaks to both.
  const isForwarding = provider.name === 'vfio-user';
  const options = isForwarding ? { ...data.options, twin: 'off' } : data.options;
  const device = withPluginNamed(plugins, data.address, () => {
    const resolved = scope.own(provider.resolve(data.address, options));
    // Opens the device once in advance, so that errors surface before a client connects.
    openForClient(provider, resolved)[Symbol.dispose]();
    return resolved;
  });
  server = scope.own(
    new VfioUserServer({
      path: data.path,
      open: () => {
        const served = openForClient(provider, device);
        display.open(served.device);
        const close = () => {
          display.close();
          served[Symbol.dispose]();
        };
        return { ...served, [Symbol.dispose]: close };
      },
      trustsClient: data.trustsClient,
      tell: (text, level) => emit({ kind: 'told', text, level }),
    }),
  );
  // Runs before the device is closed, which would lose its picture.
  scope.defer(() => {
    display.close();
    emit({ kind: 'stills', stills: [display.still()] });
  });
  emit({ kind: 'ready', description: device.description });
  inbox.enterCalls();
  try {
    while (!inbox.isStopping) {
      server.step();
      if (inbox.hasNews) inbox.drain();
    }
  } finally {
    inbox.leaveRun();
  }
}

/** The error that `call` throws, if it does. */
function refusalOf(call: () => void): { readonly error?: ErrorData } {
  try {
    call();
    return {};
  } catch (error) {
    return { error: encodeError(error) };
  }
}

const unmapped = deferUnmapping();
try {
  await main();
} catch (error) {
  emit({ kind: 'failed', error: encodeError(error) });
}
emit({ kind: 'ended', mapped: unmapped.take() });
process.exit(0);

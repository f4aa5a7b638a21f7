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
import { VfioCore } from '../vfio/core/core.js';
import type { InputEvent, InputKind } from '../vfio/driver.js';
import { VfioProvider } from '../vfio/provider.js';
import { checkDevices } from './device-check.js';
import type { ServedDeviceConfig, VgpuVfsConfig } from './device-server.js';
import type { ScreenCommand, ScreenEvent } from './display/messages.js';
import type { ScreenSize } from './display/screen-size.js';
import { type ErrorData, encodeError } from './error-data.js';
import { container as root } from './injection.js';
import { machineDevices } from './machine-devices.js';
import { configurePorts, registerPorts, withPluginNamed } from './plugin-ports.js';
import { ServedDevices } from './served-devices.js';
import { traceText } from './trace-text.js';
import { VGPU_TYPE } from './vf-sysfs.js';
import type { VgpuCardConfig } from './vgpu-cards.js';

/** Data that starts the thread. */
export interface ServeThreadData {
  /** At least one, unless there are VFs. */
  readonly devices: readonly ServedDeviceConfig[];
  readonly vfs: VgpuVfsConfig | undefined;
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
  | { readonly kind: 'inject'; readonly id: number; readonly slot: number; readonly faults: string }
  | {
      readonly kind: 'input';
      readonly id: number;
      readonly slot: number;
      readonly events: readonly InputEvent[];
    }
  | {
      readonly kind: 'resize';
      readonly id: number;
      readonly slot: number;
      readonly head: number;
      readonly size: ScreenSize;
    };

/** Events from the serving thread to the main thread. */
export type ServeEvent =
  /** Of each device, once all accept clients. */
  | {
      readonly kind: 'ready';
      readonly slot: number;
      readonly description: string;
      readonly path: string;
      /** What it is, if it takes events. */
      readonly input: InputKind | undefined;
      readonly isLast: boolean;
    }
  | { readonly kind: 'told'; readonly text: string; readonly level: 'info' | 'warn' }
  | { readonly kind: 'trace'; readonly channel: string; readonly text: string }
  | ScreenEvent
  /** Answers a command `inject`, `input` or `resize`. */
  | { readonly kind: 'injected'; readonly id: number; readonly error?: ErrorData }
  | { readonly kind: 'failed'; readonly error: ErrorData }
  /** The last event: memory to unmap once no thread can access it. */
  | { readonly kind: 'ended'; readonly mapped: readonly MappedRange[] };

const data = threadData as ServeThreadData;
const emit = (event: ServeEvent): void => parentPort?.postMessage(event);

async function main(): Promise<void> {
  setThreadName('tsvisor-serve');
  const inbox = new Inbox(data.control);
  using scope = new Scope();
  const tell = (text: string, level: 'info' | 'warn') => emit({ kind: 'told', text, level });
  const served = scope.own(new ServedDevices({ trustsClient: data.trustsClient, tell }));
  inbox.addPort(data.commands, (message) => {
    const command = message as ServeCommand;
    const { kind, id } = command;
    if (kind === 'inject')
      emit({ kind: 'injected', id, ...refusalOf(() => served.inject(command.slot, command.faults)) });
    else if (kind === 'input')
      emit({ kind: 'injected', id, ...refusalOf(() => served.input(command.slot, command.events)) });
    else if (kind === 'resize')
      emit({
        kind: 'injected',
        id,
        ...refusalOf(() => served.resize(command.slot, command.head, command.size)),
      });
    else if (kind === 'displays') emit({ kind, id, displays: served.displays() });
    else emit({ kind, id, answer: served.look(command.slot, command.isCopied === true, command.head) });
  });
  // The protocol's events with a text are refusals.
  for (const [name, level] of [
    ['vfioUser', 'warn'],
    ['vfio', 'info'],
  ] as const) {
    trace[name].subscribe(({ text }: { readonly text?: string }) => {
      if (text !== undefined) tell(text, level);
    });
  }
  for (const channel of data.trace)
    trace[channel].subscribe((event: object) => emit({ kind: 'trace', channel, text: traceText(event) }));
  const eventThread = new EventThreadClient(data.events, inbox);
  const container = root.createChildContainer();
  const { plugins, sources } = await machineDevices(data, data.devices);
  configurePorts(container, plugins, scope);
  registerPorts(container, plugins, { eventThread }, sources, scope);
  const providers = container.resolveAll<VfioProvider>(VfioProvider);
  checkDevices(
    providers,
    data.devices.map(({ address, options = {} }) => ({ address, options })),
  );
  const offered = data.devices.map((config, slot) => {
    const { address, path } = config;
    const provider = requireProvider(providers, address);
    // A server's requests for memory of our client's are forwarded by this thread, which alone speaks to both.
    const isForwarding = provider.name === 'vfio-user';
    const given = isForwarding ? { ...config, options: { ...config.options, twin: 'off' } } : config;
    const isAlone = data.devices.length === 1;
    const device = withPluginNamed(plugins, address, () => served.add(provider, given, isAlone));
    const isLast = slot === data.devices.length - 1;
    return { slot, description: device.description, path, input: device.inputKind, isLast };
  });
  // Before the devices are closed, which would lose their pictures.
  scope.defer(() => emit({ kind: 'stills', stills: served.stills() }));
  for (const device of offered) emit({ kind: 'ready', ...device });
  if (data.vfs !== undefined) {
    const provider = requireProvider(providers, VGPU_TYPE);
    const { mdevs } = container.resolve(VfioCore);
    const { ServedVfs } = await import('./served-vfs.js');
    const vfs = new ServedVfs({ ...data.vfs, id: data.vfs.id, provider, mdevs, served, tell });
    const { folder: path } = scope.own(vfs.mount());
    const count = vfs.totalVfs === 1 ? '1 VF' : `${vfs.totalVfs} VFs`;
    const description = `sysfs of a vGPU card with ${count}, a vGPU once it has a type`;
    emit({ kind: 'ready', slot: 0, description, path, input: undefined, isLast: true });
  }
  inbox.enterCalls();
  try {
    while (!inbox.isStopping) {
      served.step();
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

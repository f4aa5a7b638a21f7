/** The machine thread's program. @see virtual-machine.ts, its other side */
import { parentPort, workerData } from 'node:worker_threads';
import { EventThreadClient } from '../sys/event-thread.js';
import { Inbox, InboxBell } from '../sys/inbox.js';
import { setThreadName } from '../sys/libc.js';
import { deferUnmapping } from '../sys/mapping.js';
import { trace } from '../sys/trace.js';
import { compose } from './compose.js';
import type { VmConfig } from './config.js';
import { loadPlugins } from './plugin.js';
import {
  encodeError,
  type MachineCommand,
  type MachineEvent,
  type MachineThreadData,
  monotonicMs,
} from './protocol.js';
import { traceText } from './trace-text.js';
import { VcpuBaton } from './vcpu-baton.js';

const data = workerData as MachineThreadData;
/** A guest can go wrong a million times a second; nobody wants to read that. */
const MOST_MISUSES = 20;

const emit = (event: MachineEvent): void => parentPort?.postMessage(event);

/** What VFIO tells in words always goes to the owner; other channels when the configuration asks for them. */
function forwardTraces(config: VmConfig): void {
  trace.vfio.subscribe((event) => {
    const { device, text } = event as { device?: string; text?: string };
    if (text === undefined) return;
    emit({ kind: 'step', text: device === undefined ? text : `${device}: ${text}`, at: monotonicMs() });
  });
  let misuses = 0;
  trace.guestMisuse.subscribe((event) => {
    const { device, text } = event as { device?: string; text?: string };
    if (++misuses > MOST_MISUSES) return;
    const more = misuses === MOST_MISUSES ? ' (no more of these will be shown; see --trace guestMisuse)' : '';
    emit({
      kind: 'step',
      text: `guest misuse: ${device}: ${text ?? traceText(event)}${more}`,
      at: monotonicMs(),
    });
  });
  for (const channel of config.trace) {
    trace[channel].subscribe((event) => emit({ kind: 'trace', channel, text: traceText(event) }));
  }
}

/** vCPU threads let go of their vCPUs before those are closed. */
function stopVcpuThreads(): void {
  for (const { control, baton } of data.vcpuThreads) {
    new InboxBell(control).stop();
    new VcpuBaton(baton).awaitRetired();
  }
}

async function main(): Promise<void> {
  setThreadName('tsvisor-machine');
  const inbox = new Inbox(data.control);
  const eventThread = new EventThreadClient(data.events, inbox);
  forwardTraces(data.config);
  const plugins = await loadPlugins(data.config.plugins);
  emit({ kind: 'started' });
  using composed = compose(
    data.config,
    { ram: data.ram, inbox, vcpuThreads: data.vcpuThreads, emit },
    eventThread,
    plugins,
  );
  inbox.addPort(data.commands, (command) => composed.machine.obey(command as MachineCommand));
  try {
    emit({ kind: 'finished', report: composed.machine.run() });
  } finally {
    stopVcpuThreads();
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

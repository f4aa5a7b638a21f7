/** The machine thread's program. @see machine-run.ts, its other side */
import { parentPort } from 'node:worker_threads';
import { EventThreadClient } from '../sys/event-thread.js';
import { Inbox, InboxBell } from '../sys/inbox.js';
import { setThreadName } from '../sys/libc.js';
import { deferUnmapping } from '../sys/mapping.js';
import { monotonicMs } from '../sys/monotonic.js';
import { firstFailure } from '../sys/scope.js';
import { threadData } from '../sys/thread-ahead.js';
import { trace } from '../sys/trace.js';
import { pciAddress } from '../vfio/addresses.js';
import { Timeline } from '../vfio/timeline.js';
import { compose } from './compose.js';
import type { VmConfig } from './config.js';
import { encodeError } from './error-data.js';
import { EventFlow } from './event-flow.js';
import { EventSource } from './event-source.js';
import { imageProgram } from './guest-image.js';
import type { GuestProgram } from './guest-program.js';
import type { GuestRamHandle } from './guest-ram.js';
import { MOST_TIMELINE_EVENTS } from './inspection.js';
import { machineDevices } from './machine-devices.js';
import type { DevicePiece } from './move/arriving-devices.js';
import type {
  DecodedState,
  DeviceStateCommand,
  MachineCommand,
  MachineEvent,
  MachineThreadData,
  RamCommand,
  StateCommand,
} from './protocol.js';
import { traceText } from './trace-text.js';
import { VcpuBaton } from './vcpu-baton.js';

const data = threadData as MachineThreadData;
/** The rules for devices of the host. Loading them takes time, which other machines do not spend. */
let hostCheck: typeof import('./host-check.js') | undefined;
const post = (event: MachineEvent): void => parentPort?.postMessage(event);

/** Forwards VFIO's readable messages to the owner, and the trace channels that the configuration names. */
function forwardTraces(config: VmConfig, events: EventSource): void {
  trace.vfio.subscribe(({ device, text, level }) => {
    if (text !== undefined) events.step(device === undefined ? text : `${device}: ${text}`, level);
  });
  trace.guestMisuse.subscribe(({ device, text }) => events.guestMisuse(device, text));
  for (const channel of config.trace) {
    trace[channel].subscribe((event: object) => events.trace(channel, traceText(event)));
  }
}

/** Waits until the vCPU threads no longer use their vCPUs, so that these can be closed. */
function stopVcpuThreads(): void {
  for (const { control, baton } of data.vcpuThreads) {
    new InboxBell(control).stop();
    new VcpuBaton(baton).awaitRetired();
  }
}

/** Commands of the machine's owner. The first one brings the RAM; the others wait until the machine is built. */
class Commands {
  readonly #inbox: Inbox;
  readonly #early: MachineCommand[] = [];
  #ram: GuestRamHandle | undefined;
  #state: DecodedState | undefined;
  readonly #pieces: DevicePiece[] = [];
  #deliver: (command: MachineCommand) => void = (command) => this.#early.push(command);

  constructor(inbox: Inbox) {
    this.#inbox = inbox;
    inbox.addPort(data.commands, (message) => {
      const command = message as MachineCommand | RamCommand | StateCommand | DeviceStateCommand;
      if (command.kind === 'ram') this.#ram = command.ram;
      else if (command.kind === 'state') this.#state = command.state;
      else if (command.kind === 'device-state') this.#pieces.push(command.piece);
      else this.#deliver(command);
    });
  }

  /** @throws Error if the machine is stopped before that, as it is if mapping the RAM fails */
  awaitRam(): GuestRamHandle {
    return this.#await(() => this.#ram, 'memory');
  }

  /** @throws Error if the machine is stopped before that, as it is if the other end of a move fails */
  awaitState(take: (piece: DevicePiece) => void): DecodedState {
    return this.#await(() => {
      for (const piece of this.#pieces.splice(0)) {
        take(piece);
        post({ kind: 'taken' });
      }
      if (this.#early.some(({ kind }) => kind === 'stop')) throw stoppedBefore('a state');
      return this.#state;
    }, 'a state');
  }

  #await<T>(get: () => T | undefined, what: string): T {
    for (;;) {
      this.#inbox.drain();
      const got = get();
      if (got !== undefined) return got;
      if (this.#inbox.isStopping) throw stoppedBefore(what);
      this.#inbox.wait();
    }
  }

  deliverTo(deliver: (command: MachineCommand) => void): void {
    this.#deliver = deliver;
    for (const command of this.#early.splice(0)) deliver(command);
  }
}

const stoppedBefore = (what: string): Error => new Error(`the machine was stopped before it had ${what}`);

/** What the machine runs: a Linux kernel, whose boot others do not load, or an image. @throws InputFileError, GuestImageError */
async function programOf(config: VmConfig): Promise<GuestProgram> {
  if (config.kernel === undefined) return imageProgram(config);
  return (await import('./linux-program.js')).linuxProgram(config.kernel, config);
}

async function main(): Promise<void> {
  setThreadName('tsvisor-machine');
  const inbox = new Inbox(data.control);
  const eventThread = new EventThreadClient(data.events, inbox);
  const flow = new EventFlow(data.flow);
  const events = new EventSource({ flow, post, isUrgent: () => inbox.hasNews });
  forwardTraces(data.config, events);
  using timeline = Timeline.start(monotonicMs, MOST_TIMELINE_EVENTS);
  const devices = [...data.config.devices, ...(data.restored?.plugged ?? [])];
  const choice = await machineDevices(data.config, devices);
  const commands = new Commands(inbox);
  if (devices.some(({ address }) => pciAddress(address) !== undefined))
    hostCheck = await import('./host-check.js');
  // First, because it is the step most likely to fail, and nothing is open yet.
  const program = await programOf(data.config);
  using composed = compose(
    data.config,
    program,
    {
      inbox,
      vcpuThreads: data.vcpuThreads,
      startsPaused: data.startsPaused,
      restored: data.restored,
      awaitState(take) {
        const state = data.restored?.state;
        if (state !== undefined) return state;
        post({ kind: 'built' });
        return commands.awaitState(take);
      },
      events,
      serial: data.serial,
      timeline: () => ({ events: timeline.events, dropped: timeline.dropped }),
      hasSerialRoom: () => flow.hasSerialRoom,
      requestRam(isRamShared) {
        post({ kind: 'started', isRamShared });
        return commands.awaitRam();
      },
    },
    eventThread,
    choice,
    hostCheck,
  );
  commands.deliverTo((command) => composed.machine.obey(command));
  try {
    post({ kind: 'finished', report: composed.machine.run() });
  } finally {
    stopVcpuThreads();
  }
}

const unmapped = deferUnmapping();
try {
  await main();
} catch (error) {
  const failure = firstFailure(error);
  post({ kind: 'failed', error: encodeError(hostCheck?.explained(failure, data.config) ?? failure) });
}
post({ kind: 'ended', mapped: unmapped.take() });
process.exit(0);

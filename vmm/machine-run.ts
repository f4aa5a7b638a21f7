/** One run of a machine: what it has from its start until it ends, or is reset. */
import type { InboxSender } from '../sys/inbox.js';
import { type MappedRange, unmap } from '../sys/mapping.js';
import { HUGE_PAGE_BYTES, type VmConfig } from './config.js';
import { decodeError } from './error-data.js';
import { GuestRam } from './guest-ram.js';
import { type MachineThreads, startThreads } from './machine-threads.js';
import { GuardedMemory } from './move/guarded-memory.js';
import type { MachineOrigin } from './move/incoming.js';
import type {
  DeviceStateCommand,
  MachineCommand,
  MachineEvent,
  RamCommand,
  RunReport,
  StateCommand,
} from './protocol.js';
import type { SerialLinks } from './serial-links.js';

/** An event that is not of the run itself. */
export type HeardEvent = Exclude<
  MachineEvent,
  { kind: 'started' | 'built' | 'taken' | 'finished' | 'failed' | 'ended' }
>;

/** What a machine thread is sent. */
export type RunCommand = MachineCommand | RamCommand | StateCommand | DeviceStateCommand;

/** Parts of a {@link MachineRun}. */
export interface MachineRunParts {
  /** With the devices that it begins with. */
  readonly config: VmConfig;
  readonly startsPaused: boolean;
  readonly serial: SerialLinks;
  /** What it begins with, unless it boots. */
  readonly origin: MachineOrigin | undefined;
  /** Returns a promise for an event that is not read yet. */
  hear(event: HeardEvent): unknown;
}

/**
 * The threads of one run and its memory, which is unmapped after they have ended. It is started, waited for, and finished, in this
 * order. Main thread only.
 */
export class MachineRun implements AsyncDisposable {
  readonly #parts: MachineRunParts;
  #threads: MachineThreads | undefined;
  /** Until the machine thread has ended. */
  #sender: InboxSender | undefined;
  /** The guest's memory, as long as it is mapped. */
  #ram: GuestRam | undefined;
  #mapped: readonly MappedRange[] = [];
  #report: RunReport | undefined;
  #failure: Error | undefined;

  constructor(parts: MachineRunParts) {
    this.#parts = parts;
  }

  /** What the machine thread has reported at its end. */
  get report(): RunReport | undefined {
    return this.#report;
  }

  /** The first error of one of its threads. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** As long as this run has it: whoever looks later gets an error, and not a fault. */
  memory(): GuardedMemory {
    const ram = this.#ram;
    return new GuardedMemory(ram?.view, () => ram !== undefined && this.#ram === ram);
  }

  /** Sends a command; returns false if there is no machine to receive it. */
  send(command: RunCommand): boolean {
    this.#sender?.send(command);
    return this.#sender !== undefined;
  }

  /** @throws SysError EAGAIN if the host refuses the first thread */
  start(): void {
    const { config, startsPaused, serial, origin } = this.#parts;
    const hear = (event: MachineEvent) => this.#hear(event);
    const threads = startThreads(config, startsPaused, serial, hear, origin?.state);
    this.#threads = threads;
    this.#sender = threads.sender;
    for (const other of threads.others) other.catch((error: Error) => this.#fail(error));
  }

  /** Resolves when the machine thread has ended: it takes no commands then. */
  async wait(): Promise<void> {
    await this.#threads?.machine.catch((error: Error) => this.#fail(error));
    this.#sender = undefined;
  }

  /** Requests the end of all threads; can be called repeatedly. */
  stop(): void {
    this.#threads?.stop();
  }

  /** Ends the other threads, and unmaps what they have used. @throws the first error of a thread */
  async finish(): Promise<RunReport> {
    this.stop();
    await Promise.allSettled(this.#threads?.others ?? []);
    unmap(this.#mapped);
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#report === undefined) throw new Error('the machine thread ended without a report');
    return this.#report;
  }

  /** Unmaps the guest's memory. */
  async [Symbol.asyncDispose](): Promise<void> {
    const ram = this.#ram;
    this.#ram = undefined;
    await ram?.[Symbol.asyncDispose]();
  }

  #hear(event: MachineEvent): unknown {
    const { origin, hear } = this.#parts;
    origin?.hear?.(event);
    switch (event.kind) {
      case 'started':
        this.#makeRam(event.isRamShared);
        break;
      case 'built':
      case 'taken':
        break;
      case 'finished':
        this.#report = event.report;
        break;
      case 'failed':
        this.#failure ??= decodeError(event.error);
        break;
      case 'ended':
        this.#mapped = event.mapped;
        break;
      default:
        return hear(event);
    }
    return undefined;
  }

  /** Only the machine thread knows the devices' providers, which decide whether the memory must be shared. */
  #makeRam(isShared: boolean): void {
    const { config, origin } = this.#parts;
    try {
      const pageBytes = HUGE_PAGE_BYTES[config.hugePages];
      const ram = origin?.memory(isShared, pageBytes) ?? GuestRam.create(config.memory, isShared, pageBytes);
      this.#ram = ram;
      origin?.[Symbol.dispose]();
      this.send({ kind: 'ram', ram: ram.handle });
      // Not earlier: until then, starting the threads needs the processors.
      if (config.prefault) ram.populate();
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  /** If another thread fails, the machine cannot continue: stop it, and reject with that thread's error. */
  #fail(error: Error): void {
    this.#failure ??= error;
    this.stop();
  }
}

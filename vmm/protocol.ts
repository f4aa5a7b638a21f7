/** What the main thread and the machine thread say to each other. Plain data: it crosses threads. */
import type { MessagePort } from 'node:worker_threads';
import type { EventThreadLink } from '../sys/event-thread.js';
import type { MappedRange } from '../sys/mapping.js';
import type { ExitCounts } from './assign/exit-dispatcher.js';
import type { VmConfig } from './config.js';
import type { PlaneCommand, PlaneEvent, StillsEvent } from './display/messages.js';
import type { ErrorData } from './error-data.js';
import type { GuestRamHandle } from './guest-ram.js';
import type { Outcome } from './outcome.js';
import type { VcpuBatonBuffer } from './vcpu-baton.js';

/** One thread that a vCPU may run in, for machines with two or more. */
export interface VcpuThreadLink {
  readonly baton: VcpuBatonBuffer;
  readonly control: SharedArrayBuffer;
}

/** What the machine thread is started with. */
export interface MachineThreadData {
  readonly config: VmConfig;
  readonly control: SharedArrayBuffer;
  readonly commands: MessagePort;
  readonly events: EventThreadLink;
  readonly vcpuThreads: readonly VcpuThreadLink[];
}

/** Main thread to machine thread, before the machine is there: the answer to `started`. */
export interface RamCommand {
  readonly kind: 'ram';
  readonly ram: GuestRamHandle;
}

/** Main thread to machine thread. */
export type MachineCommand =
  | { readonly kind: 'stop'; readonly by: string }
  /** Wants what the guest has written of a line that has not ended. */
  | { readonly kind: 'flush' }
  /** Asks the guest to shut down, as the button on a PC's case does. */
  | { readonly kind: 'power-button' }
  /** Bytes typed on the guest's serial console. */
  | { readonly kind: 'serial'; readonly bytes: Uint8Array }
  | PlaneCommand;

/** A mark the guest set on its way, by writing to the POST code port. */
export interface Phase {
  /** What the guest wrote: 0 to 255. */
  readonly code: number;
  /** Milliseconds of the monotonic clock, the same in all threads. */
  readonly at: number;
  /** Exits up to then. */
  readonly exits: ExitCounts;
  /** Accesses of each device up to then. */
  readonly accesses: Readonly<Record<string, number>>;
  /** What assigned devices had counted by then. */
  readonly devices: readonly DeviceReport[];
}

/** What a device counted. */
export interface DeviceReport {
  /** `00:03.0 virtio-net` */
  readonly name: string;
  /** One line for a person: what the device is and where it comes from. */
  readonly description: string;
  /** The device's own counters, by name: packets, bytes, doorbells. */
  readonly counters: Readonly<Record<string, number>>;
}

/** What a run was like. */
export interface RunReport {
  /** How the run ended. */
  readonly outcome: Outcome;
  /** The guest's progress codes, in order. */
  readonly phases: readonly Phase[];
  /** Exits handled in user space, by kind. */
  readonly exits: ExitCounts;
  /** Accesses to each device on a bus, by name. */
  readonly accesses: Readonly<Record<string, number>>;
  /** Assigned devices and their counters, at the end. */
  readonly devices: readonly DeviceReport[];
}

/** Machine thread to main thread. */
export type MachineEvent =
  /** The thread is up and needs guest RAM; shared with other processes if a device's provider says so. */
  | { readonly kind: 'started'; readonly isRamShared: boolean }
  | { readonly kind: 'step'; readonly text: string; readonly at: number }
  | { readonly kind: 'serial'; readonly bytes: Uint8Array }
  /** The guest has begun a line, which will be sent when it ends, or upon `flush`. */
  | { readonly kind: 'serial-pending' }
  | { readonly kind: 'phase'; readonly phase: Phase }
  | { readonly kind: 'trace'; readonly channel: string; readonly text: string }
  | PlaneEvent
  | StillsEvent
  | { readonly kind: 'finished'; readonly report: RunReport }
  | { readonly kind: 'failed'; readonly error: ErrorData }
  /** The last one: memory to unmap when no thread can touch it any more. */
  | { readonly kind: 'ended'; readonly mapped: readonly MappedRange[] };

/** Milliseconds of CLOCK_MONOTONIC: comparable between threads. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

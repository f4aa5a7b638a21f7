/** Messages between the main thread and the machine thread. Plain data, because they cross threads. */
import type { MessagePort } from 'node:worker_threads';
import type { ByteChannelBuffer } from '../devices/line/byte-channel.js';
import type { HostEndNumbers, LineBuffers } from '../devices/line/messages.js';
import type { EventThreadLink } from '../sys/event-thread.js';
import type { DoorName } from '../sys/ioctl-door.js';
import type { MappedRange } from '../sys/mapping.js';
import type { StateSection } from '../sys/state-sections.js';
import type { ExitCounts } from './assign/exit-dispatcher.js';
import type { DeviceConfig, VmConfig } from './config.js';
import type { ScreenCommand, ScreenEvent } from './display/messages.js';
import type { ErrorData } from './error-data.js';
import type { EventFlowBuffer } from './event-flow.js';
import type { GuestRamHandle } from './guest-ram.js';
import type { CallCommand } from './machine-calls.js';
import type { DevicePiece } from './move/arriving-devices.js';
import type { Outcome } from './outcome.js';
import type { VcpuBatonBuffer } from './vcpu-baton.js';

/** A thread that runs a vCPU, for machines with two or more. */
export interface VcpuThreadLink {
  readonly baton: VcpuBatonBuffer;
  readonly control: SharedArrayBuffer;
}

/** A serial port's connection: to the owner, whose input comes through a byte channel, or to an end that is open. */
export type SerialLink =
  | { readonly kind: 'observer'; readonly input: ByteChannelBuffer }
  | { readonly kind: 'line'; readonly end: HostEndNumbers; readonly buffers: LineBuffers };

/** A saved state, decoded. */
export interface DecodedState {
  readonly sections: readonly StateSection[];
  /** Names it in errors. */
  readonly target: string;
}

/** What a machine that does not boot begins with, besides RAM, which has its contents by the time that the state is there. */
export interface RestoredState {
  /** Undefined for a machine that is being received: it comes as {@link StateCommand}. */
  readonly state: DecodedState | undefined;
  /** Whether it is put back in time, so that others may be the same machine; it goes on by itself then. */
  readonly isCopy: boolean;
  /** Devices that the guest finds plugged when it goes on. */
  readonly plugged: readonly DeviceConfig[];
}

/** Data that starts the machine thread. */
export interface MachineThreadData {
  readonly config: VmConfig;
  readonly control: SharedArrayBuffer;
  readonly commands: MessagePort;
  readonly events: EventThreadLink;
  readonly vcpuThreads: readonly VcpuThreadLink[];
  readonly flow: EventFlowBuffer;
  readonly startsPaused: boolean;
  /** The state that the machine is to have at its start; undefined for one that boots. */
  readonly restored: RestoredState | undefined;
  /** By port, from COM1; undefined for one that is not there. */
  readonly serial: readonly (SerialLink | undefined)[];
}

/** The main thread's reply to `started`, before the machine is built. */
export interface RamCommand {
  readonly kind: 'ram';
  readonly ram: GuestRamHandle;
}

/** The state of a machine that is received: once, before the others. */
export interface StateCommand {
  readonly kind: 'state';
  readonly state: DecodedState;
}

/** A piece of a device's state, ahead of {@link StateCommand}; the event `taken` follows. */
export interface DeviceStateCommand {
  readonly kind: 'device-state';
  readonly piece: DevicePiece;
}

/** Commands from the main thread to the machine thread. */
export type MachineCommand =
  | { readonly kind: 'stop'; readonly by: string }
  /** Requests the guest's output of an incomplete line. */
  | { readonly kind: 'flush' }
  /** Requests a shutdown, as the button on a PC's case does. */
  | { readonly kind: 'power-button' }
  /** A serial port's input channel has bytes. */
  | { readonly kind: 'serial-input'; readonly port: number }
  /** The serial ports' output has been read: the guest can send more. */
  | { readonly kind: 'drained' }
  | CallCommand
  /** The time that the guest had for a call `detach` is up. */
  | { readonly kind: 'expire-detach'; readonly id: number; readonly timeoutMs: number }
  | ScreenCommand;

/** A progress code from the guest, which wrote it to the POST code port. */
export interface Phase {
  /** The code, 0 to 255. */
  readonly code: number;
  /** Milliseconds of the monotonic clock, the same in all threads. */
  readonly at: number;
  /** Number of exits so far, by kind. */
  readonly exits: ExitCounts;
  /** Number of accesses so far, by device. */
  readonly accesses: Readonly<Record<string, number>>;
  /** Counters of the assigned devices at that time. */
  readonly devices: readonly DeviceReport[];
}

/** What a machine has counted since it started; a restart begins anew. */
export interface Counters {
  /** Exits handled in user space, by kind. */
  readonly exits: ExitCounts;
  /** Accesses to each device on a bus, by name. */
  readonly accesses: Readonly<Record<string, number>>;
  /** Assigned devices and their counters. */
  readonly devices: readonly DeviceReport[];
}

/** An assigned device and its counters. */
export interface DeviceReport {
  /** Slot and name: `00:03.0 virtio-net`. */
  readonly name: string;
  /** One readable line: what the device is, and its source. */
  readonly description: string;
  /** The device's own counters, by name: packets, bytes, doorbells. */
  readonly counters: Readonly<Record<string, number>>;
}

/** Report of a run. */
export interface RunReport {
  /** How the run ended. */
  readonly outcome: Outcome;
  /** The guest's first 256 progress codes, in order. */
  readonly phases: readonly Phase[];
  /**
   * How many records of the guest's events are missing, by kind, because there were too many or nobody read them:
   * `phases`, `steps`, `guestMisuses`, `traceEvents`; `serialBytes` the guest sent while its UART was full. Kinds without
   * any are absent.
   */
  readonly dropped: Readonly<Record<string, number>>;
  /** The FFI library that called KVM_RUN. */
  readonly ffi: DoorName;
  /** Exits handled in user space, by kind. */
  readonly exits: ExitCounts;
  /** Accesses to each device on a bus, by name. */
  readonly accesses: Readonly<Record<string, number>>;
  /** Assigned devices and their counters, at the end. */
  readonly devices: readonly DeviceReport[];
}

/** The answer to a {@link CallCommand}. */
export type ReplyEvent = { readonly kind: 'reply'; readonly id: number } & (
  | { readonly result: unknown }
  | { readonly error: ErrorData }
);

/** Events from the machine thread to the main thread. */
export type MachineEvent =
  /** Devices are open: the machine waits for its state. */
  | { readonly kind: 'built' }
  /** A machine that is received has loaded a {@link DeviceStateCommand}. */
  | { readonly kind: 'taken' }
  /** The thread is up and needs guest RAM, which is shared with other processes if a device's provider requires it. */
  | { readonly kind: 'started'; readonly isRamShared: boolean }
  | { readonly kind: 'step'; readonly text: string; readonly at: number; readonly level: 'info' | 'warn' }
  | { readonly kind: 'serial'; readonly port: number; readonly bytes: Uint8Array }
  /** The guest has begun a line, which is sent when it ends, or on `flush`. */
  | { readonly kind: 'serial-pending'; readonly port: number }
  /** A serial port's input channel has room again. */
  | { readonly kind: 'serial-room'; readonly port: number }
  | { readonly kind: 'phase'; readonly phase: Phase }
  | { readonly kind: 'trace'; readonly channel: string; readonly text: string }
  /** The guest runs, or all its vCPUs have stopped. */
  | { readonly kind: 'state'; readonly state: 'running' | 'paused' }
  | ReplyEvent
  /** The devices that are attached now, in their slots: those that a restarted machine has. */
  | { readonly kind: 'devices'; readonly devices: readonly DeviceConfig[] }
  | ScreenEvent
  | { readonly kind: 'finished'; readonly report: RunReport }
  | { readonly kind: 'failed'; readonly error: ErrorData }
  /** The last event: memory to unmap once no thread can access it. */
  | { readonly kind: 'ended'; readonly mapped: readonly MappedRange[] };

/** What a machine needs of the thread it runs in: tokens for compose.ts, implemented by machine-thread.ts. */
import type { EventThread as EventThreadPort } from '../sys/event-task.js';
import type { Inbox } from '../sys/inbox.js';
import type { GuestRamHandle } from './guest-ram.js';
import type { MachineEvent, VcpuThreadLink } from './protocol.js';

export type EventThread = EventThreadPort;
/** Runs the data paths of in-process devices. */
export const EventThread = Symbol('EventThread');

/** The way into and out of the machine thread. */
export interface MachinePorts {
  readonly ram: GuestRamHandle;
  /** Rung by whoever has something for the machine. */
  readonly inbox: Inbox;
  /** Threads for vCPUs; empty if the machine thread is to run its one vCPU itself. */
  readonly vcpuThreads: readonly VcpuThreadLink[];
  /** Tells the machine's owner. */
  emit(event: MachineEvent): void;
}
export const MachinePorts = Symbol('MachinePorts');

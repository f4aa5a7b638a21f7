import type { Inbox } from '../sys/inbox.js';
import type { GuestRamHandle } from './guest-ram.js';
import type { MachineEvent, VcpuThreadLink } from './protocol.js';

/** What a machine needs of the thread it runs in; machine-thread.ts implements it. */
export interface MachinePorts {
  /** Rung by whoever has something for the machine. */
  readonly inbox: Inbox;
  /** Threads for vCPUs; empty if the machine thread is to run its one vCPU itself. */
  readonly vcpuThreads: readonly VcpuThreadLink[];
  /** Has the guest's RAM made, by the main thread, and waits for it. @param isShared a memfd, for other processes */
  requestRam(isShared: boolean): GuestRamHandle;
  /** Sends an event to the machine's owner. */
  emit(event: MachineEvent): void;
}

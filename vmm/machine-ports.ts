import type { Inbox } from '../sys/inbox.js';
import type { EventSource } from './event-source.js';
import type { GuestRamHandle } from './guest-ram.js';
import type { TimelineRecord } from './inspection.js';
import type { DevicePiece } from './move/arriving-devices.js';
import type { DecodedState, RestoredState, SerialLink, VcpuThreadLink } from './protocol.js';

/** Services of the thread that runs a machine; machine-thread.ts implements them. */
export interface MachinePorts {
  /** Wakes the machine when other threads have messages for it. */
  readonly inbox: Inbox;
  /** Threads for vCPUs; empty if the machine thread runs the only vCPU itself. */
  readonly vcpuThreads: readonly VcpuThreadLink[];
  /** The machine was paused when it restarted: it starts so. */
  readonly startsPaused: boolean;
  /** What it begins with, instead of booting. */
  readonly restored: RestoredState | undefined;
  /**
   * Its state, if it does not boot; waits for that of a machine that is received.
   * @param take loads pieces of devices that come before it; what it throws ends the wait
   */
  awaitState(take: (piece: DevicePiece) => void): DecodedState;
  /** Makes the main thread map guest RAM, and waits for it. @param isShared for a memfd that other processes can map */
  requestRam(isShared: boolean): GuestRamHandle;
  /** Sends events to the machine's owner, and counts those that are dropped. */
  readonly events: Pick<EventSource, 'emit' | 'drop' | 'dropped' | 'isGuestRunning'>;
  /** Connections of the serial ports, from COM1; undefined for one that is not there. */
  readonly serial: readonly (SerialLink | undefined)[];
  /** The record of VFIO's operations in this thread. */
  timeline(): TimelineRecord;
  /** Whether the owner can take more of the guest's serial output; the command `drained` comes when it can again. */
  hasSerialRoom(): boolean;
}

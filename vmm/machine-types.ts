/** What the owner of a machine hears of it, and asks. */
import type { VmConfig } from './config.js';
import type { Outcome } from './outcome.js';
import type { Phase } from './protocol.js';

/**
 * Callbacks for the events of a running machine. Called in the main thread. A callback that returns a promise has not
 * read the event until that settles. If 256 KiB of serial output are unread, the guest's transmitter is busy; if 4 MiB of
 * other events are, these are dropped and counted in RunReport.dropped.
 */
export interface VmObserver {
  /**
   * Output of a serial port whose end is `observer` or `stdio`, in pieces that end at line ends where possible.
   * @param port 0 for COM1, the default's only port
   */
  readonly serial?: (bytes: Uint8Array, port: number) => unknown;
  /**
   * A step of attaching a device. `at`: milliseconds of the monotonic clock. The guest can cause 1000 of them, and then
   * 10 per second. `level`: `warn` for what the guest does wrong, and for a device that is used though it is not as it should be.
   */
  readonly step?: (text: string, at: number, level: 'info' | 'warn') => unknown;
  /** A progress code, when the guest writes it; the first 256. */
  readonly phase?: (phase: Phase) => unknown;
  /** An event of a channel that the configuration's `trace` names. The machine waits up to a second for a slow reader. */
  readonly trace?: (channel: string, text: string) => unknown;
}

/** How VirtualMachine.detach detaches. */
export interface DetachOptions {
  /** Removes the device at once, as if pulled out, without the guest's consent. Default: false */
  readonly force?: boolean;
  /** How long the guest has to release the device, in milliseconds. Default: 30,000 */
  readonly timeoutMs?: number;
}

/** What a machine is. */
export interface MachineInfo {
  /** What it does now. */
  readonly state: MachineState;
  /** Milliseconds since it was started; until its end, once it has ended. */
  readonly uptimeMs: number;
  /** How often it was reset. */
  readonly restarts: number;
  /** How it ended; undefined before that, and if an error ended it. */
  readonly outcome: Outcome | undefined;
  /** Message of the error that ended it, or kept it from starting; undefined if none did. */
  readonly failure: string | undefined;
  /** Its configuration, with the devices that are attached now. */
  readonly config: VmConfig;
}

/** What a machine does: `starting`, also again after a reset; `paused` has all vCPUs at an instruction boundary. */
export type MachineState = 'starting' | 'running' | 'paused' | 'ended';

/** How VirtualMachine.receive waits. */
export interface ReceiveOptions {
  /** How long the other end may be silent once it has connected, in milliseconds. Default: 30,000 */
  readonly timeoutMs?: number;
  /** Ends it; a machine that is half here is closed, and runs on where it was. */
  readonly signal?: AbortSignal;
  /** Called when connections are possible. */
  readonly listening?: () => void;
}

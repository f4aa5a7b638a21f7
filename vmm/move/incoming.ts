/** A machine that is being received: what VirtualMachine starts it from. Main thread. */
import { parseConfig, type VmConfig } from '../config.js';
import { ConfigError } from '../config-error.js';
import { GuestRam } from '../guest-ram.js';
import type { MachineEvent, RestoredState } from '../protocol.js';
import { withOptions } from '../snapshot/device-options.js';
import type { RestoreChanges } from '../snapshot/restore.js';

/** Where a machine that does not boot comes from. */
export interface MachineOrigin extends Disposable {
  readonly config: VmConfig;
  readonly state: RestoredState | undefined;
  /** Its memory, once; undefined after that. */
  memory(isShared: boolean, hugePageBytes: number | undefined): GuestRam | undefined;
  /** Whether it is paused until it is told to go on. */
  readonly startsPaused?: boolean;
  /** Hears what happens to it. */
  hear?(event: MachineEvent): void;
}

export class Incoming implements MachineOrigin {
  readonly config: VmConfig;
  readonly startsPaused = true;
  readonly state: RestoredState = { state: undefined, isCopy: false, plugged: [] };
  /** Resolves when its devices are open. */
  readonly built: Promise<void>;
  /** Resolves when its state is loaded, and its vCPUs are at rest. */
  readonly loaded: Promise<void>;
  #settleTaken: () => void = () => {};
  #failTaken: (error: Error) => void = () => {};
  #failure: Error | undefined;
  #settleBuilt!: () => void;
  #settleLoaded!: () => void;

  private constructor(config: VmConfig) {
    this.config = config;
    this.built = new Promise((resolve) => {
      this.#settleBuilt = resolve;
    });
    this.loaded = new Promise((resolve) => {
      this.#settleLoaded = resolve;
    });
  }

  /** @param config of the other end, not validated @throws ConfigError */
  static of(config: Readonly<Record<string, unknown>>, changes: RestoreChanges): Incoming {
    const { deviceOptions = {}, ...others } = changes;
    const parsed = parseConfig(withOptions({ ...config, ...others }, deviceOptions));
    if (parsed.sandbox.mode !== 'off')
      throw new ConfigError([{ path: 'sandbox', text: 'a machine that is received has none' }]);
    return new Incoming(parsed);
  }

  memory(isShared: boolean, hugePageBytes: number | undefined): GuestRam {
    return GuestRam.create(this.config.memory, isShared, hugePageBytes);
  }

  /** Resolves when its machine has loaded the piece of a device that is sent next. @throws what {@link fail} was called with */
  get taken(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#settleTaken = resolve;
      this.#failTaken = reject;
      if (this.#failure !== undefined) reject(this.#failure);
    });
  }

  /** The machine has ended: it takes nothing any more. */
  fail(error: Error): void {
    this.#failure = error;
    this.#failTaken(error);
  }

  hear(event: MachineEvent): void {
    if (event.kind === 'built') this.#settleBuilt();
    if (event.kind === 'taken') this.#settleTaken();
    if (event.kind === 'state' && event.state === 'paused') this.#settleLoaded();
  }

  [Symbol.dispose](): void {}
}

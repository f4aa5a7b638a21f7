/** A machine that is being received: what it starts from, and what it is sent. Main thread. */
import type { Calls } from '../calls.js';
import { parseConfig, type VmConfig } from '../config.js';
import { ConfigError } from '../config-error.js';
import { GuestRam } from '../guest-ram.js';
import type {
  DeviceStateCommand,
  MachineEvent,
  RestoredState,
  RunReport,
  StateCommand,
} from '../protocol.js';
import { withOptions } from '../snapshot/device-options.js';
import type { RestoreChanges } from '../snapshot/restore.js';
import type { MovedMemory } from './moved-memory.js';
import { takePaused } from './paused-section.js';
import type { ReceivedMachine } from './target.js';

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

/** What {@link Incoming.arrive} uses of the machine that was started from it. */
export interface StartedMachine {
  readonly calls: Pick<Calls, 'call'>;
  /** Rejects with the error that ends it. */
  readonly finished: Promise<Pick<RunReport, 'outcome'>>;
  memory(): MovedMemory;
  send(command: StateCommand | DeviceStateCommand): void;
}

export class Incoming implements MachineOrigin {
  readonly config: VmConfig;
  readonly startsPaused = true;
  readonly state: RestoredState = { state: undefined, isCopy: false, plugged: [] };
  /** Resolves when its devices are open. */
  readonly #built: Promise<void>;
  /** Resolves when its state is loaded, and its vCPUs are at rest. */
  readonly #loaded: Promise<void>;
  #settleTaken: () => void = () => {};
  #failTaken: (error: Error) => void = () => {};
  #failure: Error | undefined;
  #settleBuilt!: () => void;
  #settleLoaded!: () => void;

  private constructor(config: VmConfig) {
    this.config = config;
    this.#built = new Promise((resolve) => {
      this.#settleBuilt = resolve;
    });
    this.#loaded = new Promise((resolve) => {
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

  /**
   * The machine that was started from this, once its devices are open: for what comes.
   * @throws what ends the machine, as its calls do
   */
  async arrive(machine: StartedMachine): Promise<ReceivedMachine> {
    const ended = machine.finished.then(({ outcome }) => {
      throw new Error(`the machine has ended: ${JSON.stringify(outcome)}`);
    });
    // Pieces of devices, of which there may be any number, wait for this: a race with `ended` would leave something of each behind.
    ended.catch((error: Error) => this.#fail(error));
    await Promise.race([this.#built, ended]);
    let isPaused = false;
    return {
      memory: machine.memory(),
      device: async (piece) => {
        const taken = this.#taken();
        machine.send({ kind: 'device-state', piece });
        await taken;
      },
      load: async (sections) => {
        const { isPaused: wasPaused, rest } = takePaused(sections);
        isPaused = wasPaused;
        const state = { sections: rest, target: 'the moved machine' };
        machine.send({ kind: 'state', state });
        await Promise.race([this.#loaded, ended]);
      },
      takeOver: () => machine.calls.call('takeOver', isPaused),
    };
  }

  /** Resolves when its machine has loaded the piece of a device that is sent next. @throws what `#fail` was called with */
  #taken(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#settleTaken = resolve;
      this.#failTaken = reject;
      if (this.#failure !== undefined) reject(this.#failure);
    });
  }

  /** The machine has ended: it takes nothing any more. */
  #fail(error: Error): void {
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

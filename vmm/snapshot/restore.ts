/** A machine's start from a saved one. Main thread only. */
import { type DeviceConfig, parseConfig, type VmConfig, type VmConfigInput } from '../config.js';
import { ConfigError } from '../config-error.js';
import { GuestRam } from '../guest-ram.js';
import type { RestoredState } from '../protocol.js';
import { wholeConfig } from './config.js';
import { type DeviceOptionChanges, withOptions } from './device-options.js';
import { Snapshot } from './folder.js';

/** What of a saved configuration can be chosen anew: where its back-ends end, and how it runs here. */
export type RestoreChanges = Omit<VmConfigInput, 'memory' | 'vcpus'> & {
  /**
   * Options of devices, by slot (`3`, or `3.1` for a function of it): they are added to those of the saved device, or replace them, as
   * `{ 3: { net: 'passt', mac: '52:54:00:00:00:07' } }`.
   */
  readonly deviceOptions?: DeviceOptionChanges;
};

/** The start of one machine from a snapshot: its configuration, its state, and its memory once. */
export class Restoring implements Disposable {
  /** With the devices that are in the state. */
  readonly config: VmConfig;
  readonly #plugged: readonly DeviceConfig[];
  #snapshot: Snapshot | undefined;

  private constructor(config: VmConfig, plugged: readonly DeviceConfig[], snapshot: Snapshot) {
    this.config = config;
    this.#plugged = plugged;
    this.#snapshot = snapshot;
  }

  /**
   * Reads a folder. @param changes replace what the configuration has of the same name
   * @throws as Snapshot.open; ConfigError for a configuration that is not valid, or with a sandbox
   */
  static open(folder: string, changes: RestoreChanges): Restoring {
    const snapshot = Snapshot.open(folder);
    try {
      const { deviceOptions = {}, ...others } = changes;
      const { config, plugged } = divided(snapshot.config, others, deviceOptions);
      if (config.sandbox.mode !== 'off')
        throw new ConfigError([{ path: 'sandbox', text: 'a machine that is restored has none' }]);
      snapshot.checkMemory(config.memory);
      return new Restoring(config, plugged, snapshot);
    } catch (error) {
      snapshot[Symbol.dispose]();
      throw error;
    }
  }

  /** Before it is disposed. */
  get state(): RestoredState | undefined {
    const { sections = [], folder = '' } = this.#snapshot ?? {};
    const state = { sections, target: folder };
    return this.#snapshot && { state, isCopy: true, plugged: this.#plugged };
  }

  /** The memory, once. @throws SysError as GuestRam.restore; EINVAL if the file was cut meanwhile */
  memory(isShared: boolean, hugePageBytes: number | undefined): GuestRam | undefined {
    const { memory } = this.config;
    this.#snapshot?.checkMemory(memory);
    return this.#snapshot && GuestRam.restore(this.#snapshot.memory, memory, isShared, hugePageBytes);
  }

  /** Closes it, and lets its state go. */
  [Symbol.dispose](): void {
    this.#snapshot?.[Symbol.dispose]();
    this.#snapshot = undefined;
  }
}

/**
 * The configuration of a machine, and the devices that are plugged when it goes on. Whole devices that are chosen anew are told apart by
 * their slots.
 * @throws ConfigError
 */
function divided(
  saved: Readonly<Record<string, unknown>>,
  changes: VmConfigInput,
  options: DeviceOptionChanges,
): { readonly config: VmConfig; readonly plugged: readonly DeviceConfig[] } {
  const { input, isLate } = wholeConfig(saved);
  const whole = parseConfig(withOptions({ ...input, ...changes }, options));
  const devices = whole.devices.filter((device) => !isLate(device.slot));
  return { config: { ...whole, devices }, plugged: whole.devices.filter(({ slot }) => isLate(slot)) };
}

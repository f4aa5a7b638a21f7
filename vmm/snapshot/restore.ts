/** A machine's start from a saved one. Main thread only. */
import { parseConfig, type VmConfig, type VmConfigInput } from '../config.js';
import { ConfigError } from '../config-error.js';
import { GuestRam } from '../guest-ram.js';
import type { RestoredState } from '../protocol.js';
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
  readonly config: VmConfig;
  #snapshot: Snapshot | undefined;

  private constructor(config: VmConfig, snapshot: Snapshot) {
    this.config = config;
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
      const config = parseConfig(withOptions({ ...snapshot.config, ...others }, deviceOptions));
      if (config.sandbox.mode !== 'off')
        throw new ConfigError([{ path: 'sandbox', text: 'a machine that is restored has none' }]);
      snapshot.checkMemory(config.memory);
      return new Restoring(config, snapshot);
    } catch (error) {
      snapshot[Symbol.dispose]();
      throw error;
    }
  }

  /** Before it is disposed. */
  get state(): RestoredState | undefined {
    const { sections = [], folder = '' } = this.#snapshot ?? {};
    return this.#snapshot && { sections, target: folder };
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

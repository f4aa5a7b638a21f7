/** Saves a running machine to a folder. Machine thread only. */
import type { Mapping } from '../../sys/mapping.js';
import type { DeviceConfig } from '../config.js';
import { checkFolder, type SnapshotInfo, writeSnapshot } from './folder.js';
import type { SavedMachine } from './saved-machine.js';
import type { UnsavableDevice } from './unplugged-save.js';

/** What {@link Saver} needs of its machine. */
export interface SaverParts {
  readonly machine: Pick<SavedMachine, 'check' | 'save' | 'unsavable'>;
  /** What is written as its configuration. @param unplugged devices that it has, but not at this moment */
  readonly config: (unplugged: readonly DeviceConfig[]) => object;
  /** All of the guest's RAM. */
  readonly ram: Pick<Mapping, 'view'>;
}

export class Saver {
  readonly #parts: SaverParts;

  constructor(parts: SaverParts) {
    this.#parts = parts;
  }

  /** The devices that cannot be saved. @throws SysError of a device */
  get unsavable(): readonly UnsavableDevice[] {
    return this.#parts.machine.unsavable;
  }

  /** Refuses what cannot be saved. @throws SysError as SavedMachine.check; EINVAL for a relative path */
  check(folder: string): void {
    checkFolder(folder);
    this.#parts.machine.check();
  }

  /**
   * Saves it while all vCPUs are at an instruction boundary. A failure leaves what was in the folder.
   * @throws SysError as {@link check}, SavedMachine.save and writeSnapshot
   */
  save(folder: string, unplugged: readonly DeviceConfig[] = []): SnapshotInfo {
    const { machine, config, ram } = this.#parts;
    const begun = performance.now();
    this.check(folder); // a device may have come meanwhile
    const written = machine.save((sections) => writeSnapshot(folder, config(unplugged), sections, ram.view));
    return { folder, ...written, ms: performance.now() - begun };
  }
}

import type { PciFunctionState } from '../../vfio/assign/index.js';
import type { Intx } from './intx.js';
import type { Msi } from './msi.js';
import type { Msix } from './msix.js';

/** The kind of interrupt that the device uses. */
export type InterruptModeName = 'msix' | 'msi' | 'intx' | 'none';

/**
 * Switches between INTx, MSI and MSI-X as the guest enables them. A device uses one at a time (Linux rejects a second
 * with EINVAL), so the current one is always stopped first. If a guest enables both MSI and MSI-X, MSI-X wins.
 */
export class InterruptMode {
  readonly #intx: Intx | undefined;
  readonly #msi: Msi | undefined;
  readonly #msix: Msix | undefined;
  #current: InterruptModeName = 'none';

  constructor(intx: Intx | undefined, msi: Msi | undefined, msix: Msix | undefined) {
    this.#intx = intx;
    this.#msi = msi;
    this.#msix = msix;
  }

  get name(): InterruptModeName {
    return this.#current;
  }

  get state(): PciFunctionState['interrupts'] {
    const vectors = this.#source(this.#current)?.vectors ?? [];
    return { mode: this.#current, gsi: this.#intx?.gsi, vectors };
  }

  /** The vectors of the mode in use that have an interrupt pending. @see MessageVectors.settle */
  settle(): readonly number[] {
    return this.#source(this.#current)?.settle() ?? [];
  }

  /** Raises an interrupt of the mode in use, as the device does. */
  raise(vector: number): void {
    this.#source(this.#current)?.raise(vector);
  }

  /** Makes the mode and its vectors match the registers. */
  update(): void {
    const wanted = this.#wanted();
    if (wanted === this.#current) {
      this.#source(wanted)?.refresh();
      return;
    }
    this.stop();
    this.#current = wanted;
    this.#source(wanted)?.start();
  }

  stop(): void {
    this.#source(this.#current)?.stop();
    this.#current = 'none';
  }

  #wanted(): InterruptModeName {
    if (this.#msix?.isEnabled) return 'msix';
    if (this.#msi?.isEnabled) return 'msi';
    return this.#intx === undefined ? 'none' : 'intx';
  }

  #source(name: InterruptModeName): Intx | Msi | Msix | undefined {
    if (name === 'none') return undefined;
    return { msix: this.#msix, msi: this.#msi, intx: this.#intx }[name];
  }
}

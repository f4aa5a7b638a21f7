/** MSI. @see PCI Local Bus 3.0, section 6.8.1 */
import type { VectorState } from '../../vfio/assign/index.js';
import type { Interrupts } from '../contracts.js';
import type { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_32,
  PCI_MSI_PENDING_64,
} from '../pci/pci-regs.js';
import type { IrqPort } from './irq-port.js';
import { MessageVectors } from './message-vectors.js';

/** The MSI capability's registers and its vectors. */
export class Msi {
  readonly #space: ConfigSpace;
  readonly #at: number;
  readonly #vectors: MessageVectors;
  readonly #theirPending: ((at: number) => number) | undefined;
  /** Vectors wired by the last {@link start}. */
  #count = 0;

  /**
   * @param offset of the capability in `space`
   * @param theirPending reads the pending bits of a device that masks by its own registers
   */
  constructor(
    name: string,
    space: ConfigSpace,
    offset: number,
    irq: IrqPort,
    interrupts: Interrupts,
    theirPending?: (at: number) => number,
  ) {
    this.#theirPending = theirPending;
    this.#space = space;
    this.#at = offset;
    this.#vectors = new MessageVectors(name, 'msi', irq, interrupts);
  }

  get #flags(): number {
    return this.#space.read(this.#at + PCI_MSI_FLAGS, 2);
  }

  get isEnabled(): boolean {
    return (this.#flags & PCI_MSI_FLAGS_ENABLE) !== 0;
  }

  /** A guest that enables more vectors than the device has gets all that it has. */
  get #enabledCount(): number {
    const flags = this.#flags;
    const enabled = (flags & PCI_MSI_FLAGS_QSIZE) >> 4;
    return 1 << Math.min(enabled, (flags & PCI_MSI_FLAGS_QMASK) >> 1);
  }

  /** Wires the vectors; called when the enable bit is set. */
  start(): void {
    this.#count = this.#enabledCount;
    this.#vectors.start(this.#count, () => true);
    this.refresh();
  }

  /** Applies changes of the message, the masks and the number of vectors. */
  refresh(): void {
    if (this.#count !== this.#enabledCount) {
      this.stop();
      this.start();
      return;
    }
    const flags = this.#flags;
    const is64 = (flags & PCI_MSI_FLAGS_64BIT) !== 0;
    const high = is64 ? this.#space.read(this.#at + PCI_MSI_ADDRESS_HI, 4) : 0;
    const address = (BigInt(high) << 32n) | BigInt(this.#space.read(this.#at + PCI_MSI_ADDRESS_LO, 4));
    const data = this.#space.read(this.#at + (is64 ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 2);
    const masks =
      (flags & PCI_MSI_FLAGS_MASKBIT) === 0
        ? 0
        : this.#space.read(this.#at + (is64 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32), 4);
    for (let vector = 0; vector < this.#count; vector++) {
      // The vector number replaces the low bits of the data.
      if (((masks >>> vector) & 1) !== 0) this.#vectors.hold(vector);
      else this.#vectors.deliver(vector, address, (data & ~(this.#count - 1)) | vector);
    }
  }

  stop(): void {
    this.#vectors.stop();
  }

  get vectors(): readonly VectorState[] {
    return this.#vectors.states;
  }

  /** @see MessageVectors.settle */
  settle(): readonly number[] {
    return this.#vectors.settle();
  }

  /** @see MessageVectors.raise */
  raise(vector: number): void {
    this.#vectors.raise(vector);
  }

  /** Updates the pending bits before a guest's read that includes them. */
  refreshPending(offset: number, bytes: number): void {
    const flags = this.#flags;
    if ((flags & PCI_MSI_FLAGS_MASKBIT) === 0) return;
    const at = this.#at + ((flags & PCI_MSI_FLAGS_64BIT) === 0 ? PCI_MSI_PENDING_32 : PCI_MSI_PENDING_64);
    if (offset + bytes <= at || offset >= at + 4) return;
    const theirs = this.#theirPending?.(at) ?? 0;
    let pending = 0;
    for (let vector = 0; vector < this.#count; vector++) {
      const bit = 1 << vector;
      if (this.#vectors.isPending(vector) || (theirs & bit) !== 0) pending |= bit;
    }
    this.#space.set(at, 4, pending);
  }
}

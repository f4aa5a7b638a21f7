/** MSI-X. @see PCI Local Bus 3.0, section 6.8.2 */
import type { VectorState } from '../../vfio/assign/index.js';
import type { Interrupts } from '../contracts.js';
import type { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_MSIX_BIR,
  PCI_MSIX_ENTRY_CTRL_MASKBIT,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_MSIX_FLAGS_QSIZE,
  PCI_MSIX_PBA,
  PCI_MSIX_TABLE,
} from '../pci/pci-regs.js';
import type { BarArea } from './bar-layout.js';
import type { ConfigReader } from './capabilities.js';
import type { IrqPort } from './irq-port.js';
import { MessageVectors } from './message-vectors.js';
import { noteMisuse } from './notes.js';

/** An area of one of the device's BARs. */
export interface PlacedArea extends BarArea {
  readonly bar: number;
}

/** Contents of the MSI-X capability. */
export interface MsixShape {
  readonly vectors: number;
  readonly table: PlacedArea;
  readonly pba: PlacedArea;
}

/** Decodes the capability at `offset` in the device's configuration space. */
export function readMsixShape(read: ConfigReader, offset: number): MsixShape {
  const vectors = (read(offset + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1;
  const area = (register: number, size: number): PlacedArea => {
    const value = read(offset + register, 4);
    return { bar: value & PCI_MSIX_BIR, offset: (value & ~PCI_MSIX_BIR) >>> 0, size };
  };
  return {
    vectors,
    table: area(PCI_MSIX_TABLE, vectors * PCI_MSIX_ENTRY_SIZE),
    pba: area(PCI_MSIX_PBA, Math.ceil(vectors / 64) * 8),
  };
}

const WORDS = PCI_MSIX_ENTRY_SIZE / 4;
const LOWER_ADDR = 0;
const UPPER_ADDR = 1;
const DATA = 2;
const VECTOR_CTRL = 3;

/**
 * The emulated MSI-X table and PBA. The provider manages the device's own, or {@link TrappedBar} forwards to it. A vector gets its eventfd when the guest
 * first uses it, by writing a message or unmasking it. If the device's set of vectors is fixed, all get one at enable.
 */
export class Msix {
  readonly shape: MsixShape;
  readonly #name: string;
  readonly #space: ConfigSpace;
  readonly #control: number;
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #vectors: MessageVectors;

  /** @param offset of the capability in `space` */
  constructor(
    name: string,
    shape: MsixShape,
    space: ConfigSpace,
    offset: number,
    irq: IrqPort,
    interrupts: Interrupts,
  ) {
    this.shape = shape;
    this.#name = name;
    this.#space = space;
    this.#control = offset + PCI_MSIX_FLAGS;
    this.#words = new Uint32Array(shape.vectors * WORDS);
    this.#bytes = new Uint8Array(this.#words.buffer);
    this.#vectors = new MessageVectors(name, 'msix', irq, interrupts);
    this.reset();
  }

  get isEnabled(): boolean {
    return (this.#space.read(this.#control, 2) & PCI_MSIX_FLAGS_ENABLE) !== 0;
  }

  /** Resets the table to its power-on state: every vector masked. */
  reset(): void {
    this.#words.fill(0);
    for (let i = VECTOR_CTRL; i < this.#words.length; i += WORDS) {
      this.#words[i] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
    }
  }

  /** The table's bytes, for a saved state. */
  get table(): Uint8Array {
    return this.#bytes.slice();
  }

  /** Wires all vectors, or those that the table uses; called when the enable bit is set. */
  start(): void {
    const { vectors } = this.shape;
    let end = 1;
    for (let v = 0; v < vectors; v++) if (this.#isUsed(v)) end = v + 1;
    if (this.#vectors.isFixed) this.#vectors.start(vectors, () => true);
    else this.#vectors.start(end, (vector) => this.#isUsed(vector));
    this.refresh();
  }

  /** Applies the function mask. */
  refresh(): void {
    if (!this.#vectors.isStarted) return;
    for (let vector = 0; vector < this.shape.vectors; vector++) this.#refreshVector(vector);
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

  /** A guest's read of the table. */
  readTable(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) data[i] = this.#bytes[offset + i] ?? 0xff;
  }

  /**
   * A guest's write to the table. Only aligned multiples of 4 bytes are valid, by the specification; returns whether it was.
   */
  writeTable(offset: number, data: Uint8Array): boolean {
    if (offset % 4 !== 0 || data.length % 4 !== 0 || offset + data.length > this.#bytes.length) {
      noteMisuse(this.#name, 'msix', `table write of ${data.length} bytes at 0x${offset.toString(16)}`);
      return false;
    }
    this.#bytes.set(data, offset);
    if (!this.#vectors.isStarted) return true;
    const last = Math.floor((offset + data.length - 1) / PCI_MSIX_ENTRY_SIZE);
    for (let vector = Math.floor(offset / PCI_MSIX_ENTRY_SIZE); vector <= last; vector++) {
      this.#refreshVector(vector);
    }
    return true;
  }

  /** A guest's read of the PBA. */
  readPba(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) {
      let byte = 0;
      for (let bit = 0; bit < 8; bit++) {
        if (this.#vectors.isPending((offset + i) * 8 + bit)) byte |= 1 << bit;
      }
      data[i] = byte;
    }
  }

  #isMasked(vector: number): boolean {
    const control = this.#words[vector * WORDS + VECTOR_CTRL] as number;
    return (control & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0;
  }

  #isUsed(vector: number): boolean {
    const at = vector * WORDS;
    const hasMessage = this.#words[at + LOWER_ADDR] !== 0 || this.#words[at + UPPER_ADDR] !== 0;
    return hasMessage || !this.#isMasked(vector);
  }

  #refreshVector(vector: number): void {
    if (!this.#vectors.isFixed && this.#isUsed(vector)) this.#vectors.add(vector);
    const isFunctionMasked = (this.#space.read(this.#control, 2) & PCI_MSIX_FLAGS_MASKALL) !== 0;
    if (isFunctionMasked || this.#isMasked(vector)) {
      this.#vectors.hold(vector);
      return;
    }
    const at = vector * WORDS;
    const address =
      (BigInt(this.#words[at + UPPER_ADDR] as number) << 32n) |
      BigInt(this.#words[at + LOWER_ADDR] as number);
    this.#vectors.deliver(vector, address, this.#words[at + DATA] as number);
  }
}

import type { PciFunction, PciFunctionState } from '../../vfio/assign/index.js';
import type { VfBar } from '../../vfio/sriov.js';
import { barRegister } from '../pci/bar.js';
import {
  PCI_BASE_ADDRESS_0,
  PCI_CAPABILITY_LIST,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_ROM_ADDRESS,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
  PCI_STD_HEADER_SIZEOF,
  PCI_STD_NUM_BARS,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';

/** Bits of the header that a VF shows; the others read 0. @see PCI Express Base 6.0, 9.3.4.1 */
const VISIBLE = new Uint8Array(PCI_STD_HEADER_SIZEOF).fill(0xff);
VISIBLE.fill(0, PCI_COMMAND, PCI_COMMAND + 2);
VISIBLE[PCI_COMMAND] = PCI_COMMAND_MASTER;
VISIBLE[PCI_STATUS] = 0xff & ~PCI_STATUS_INTERRUPT;
VISIBLE.fill(0, PCI_BASE_ADDRESS_0, barRegister(PCI_STD_NUM_BARS));
VISIBLE.fill(0, PCI_ROM_ADDRESS, PCI_CAPABILITY_LIST);
VISIBLE[PCI_INTERRUPT_LINE] = 0;
VISIBLE[PCI_INTERRUPT_PIN] = 0;
/** Vendor and device read all-ones: software takes them from the physical function. */
const IDENTIFIERS_END = PCI_VENDOR_ID + 4;

const low32 = (value: bigint): number => Number(value & 0xffffffffn);
const UNPLACED = 0xffff_ffff_ffff_ffffn;

/**
 * An assigned device as a VF of another one. Its device file is like any other's, with identifiers and BARs; the guest sees a VF
 * without them, whose BARs the physical function's registers place. Machine thread only.
 */
export class VirtualFunction implements PciFunction {
  readonly name: string;
  readonly #device: PciFunction;
  readonly #bars: readonly VfBar[];
  #isDecoding = false;

  /** @param device it owns it; its BARs are at least `bars` */
  constructor(device: PciFunction, bars: readonly VfBar[]) {
    this.name = device.name;
    this.#device = device;
    this.#bars = bars;
  }

  configRead(offset: number, bytes: number): number {
    const value = this.#device.configRead(offset, bytes);
    if (offset >= PCI_STD_HEADER_SIZEOF) return value;
    let shown = 0;
    for (let i = bytes - 1; i >= 0; i--) {
      const at = offset + i;
      const byte = at < IDENTIFIERS_END ? 0xff : (value >>> (8 * i)) & (VISIBLE[at] as number);
      shown = shown * 256 + byte;
    }
    return shown;
  }

  /** Of the header, a guest can change bus mastering only. */
  configWrite(offset: number, bytes: number, value: number): void {
    if (offset >= PCI_STD_HEADER_SIZEOF) this.#device.configWrite(offset, bytes, value);
    else if (offset <= PCI_COMMAND && offset + bytes > PCI_COMMAND)
      this.#command((value >>> (8 * (PCI_COMMAND - offset))) & PCI_COMMAND_MASTER);
  }

  /** Stops decoding, so that another VF can take the place. */
  hide(): void {
    this.#isDecoding = false;
    this.#command(this.configRead(PCI_COMMAND, 2));
  }

  /** Decodes memory at these addresses; a BAR without one is not decoded. */
  show(baseOf: (bar: VfBar) => bigint | undefined): void {
    for (const bar of this.#bars) {
      const address = baseOf(bar) ?? UNPLACED;
      const register = barRegister(bar.index);
      this.#device.configWrite(register, 4, low32(address));
      if (bar.kind === 'memory64') this.#device.configWrite(register + 4, 4, low32(address >> 32n));
    }
    this.#isDecoding = true;
    this.#command(this.configRead(PCI_COMMAND, 2));
  }

  inspect(): PciFunctionState {
    return (
      this.#device.inspect?.() ?? { bars: [], interrupts: { mode: 'none', gsi: undefined, vectors: [] } }
    );
  }

  [Symbol.dispose](): void {
    this.#device[Symbol.dispose]();
  }

  #command(master: number): void {
    this.#device.configWrite(PCI_COMMAND, 2, master | (this.#isDecoding ? PCI_COMMAND_MEMORY : 0));
  }
}

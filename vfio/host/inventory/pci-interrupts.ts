/** Interrupts of a PCI function, from its configuration space. */

/** A number that only root can read: the kernel shows other users the first 64 bytes of configuration space. */
export type VectorCount = number | 'unknown';

/** How many interrupts of each kind a PCI function has. */
export interface PciInterrupts {
  /** Its INTx pin: `A` to `D`; undefined if it has none. */
  readonly intx: 'A' | 'B' | 'C' | 'D' | undefined;
  /** MSI vectors; 0 without the capability. */
  readonly msi: VectorCount;
  /** MSI-X vectors; 0 without the capability. */
  readonly msix: VectorCount;
}

// linux/pci_regs.h
const PCI_STATUS = 0x06;
const PCI_STATUS_CAP_LIST = 0x10;
const PCI_STD_HEADER_SIZEOF = 64;
const PCI_CAPABILITY_LIST = 0x34;
const PCI_INTERRUPT_PIN = 0x3d;
const PCI_CAP_ID_MSI = 0x05;
const PCI_CAP_ID_MSIX = 0x11;
/** Of both capabilities: offset of the register with the number of vectors. */
const FLAGS = 2;
const PCI_MSI_FLAGS_QMASK = 0x0e;
const PCI_MSIX_FLAGS_QSIZE = 0x07ff;
/** A longer list is a circle. */
const MOST_CAPABILITIES = 48;

const PINS = [undefined, 'A', 'B', 'C', 'D'] as const;

/** @param config as many bytes of configuration space as can be read */
export function readPciInterrupts(config: Uint8Array): PciInterrupts {
  const isDead =
    config.length < PCI_STD_HEADER_SIZEOF || config.subarray(0, 4).every((byte) => byte === 0xff);
  if (isDead) return { intx: undefined, msi: 'unknown', msix: 'unknown' };
  const view = new DataView(config.buffer, config.byteOffset, config.length);
  const intx = PINS[view.getUint8(PCI_INTERRUPT_PIN)];
  if ((view.getUint16(PCI_STATUS, true) & PCI_STATUS_CAP_LIST) === 0) return { intx, msi: 0, msix: 0 };
  let msi: VectorCount = 0;
  let msix: VectorCount = 0;
  let at = view.getUint8(PCI_CAPABILITY_LIST) & ~3;
  for (let left = MOST_CAPABILITIES; at >= PCI_STD_HEADER_SIZEOF && left > 0; left--) {
    if (at + FLAGS + 2 > config.length) return { intx, msi: msi || 'unknown', msix: msix || 'unknown' };
    const flags = view.getUint16(at + FLAGS, true);
    const id = view.getUint8(at);
    if (id === PCI_CAP_ID_MSI) msi = 1 << ((flags & PCI_MSI_FLAGS_QMASK) >> 1);
    if (id === PCI_CAP_ID_MSIX) msix = (flags & PCI_MSIX_FLAGS_QSIZE) + 1;
    at = view.getUint8(at + 1) & ~3;
  }
  return { intx, msi, msix };
}

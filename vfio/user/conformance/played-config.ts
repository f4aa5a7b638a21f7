/** The configuration space of the device that the suite plays: PCI with three BARs, INTx and MSI-X. */

export const CONFIG_BYTES = 256;
/** 16 KiB of registers. */
export const REGISTERS = 0;
/** 64 KiB, of which two areas can be mapped. */
export const MAPPED_BAR = 2;
/** The table of MSI-X, and its PBA. */
export const MSIX_BAR = 4;
export const BAR_BYTES = { [REGISTERS]: 16_384, [MAPPED_BAR]: 65_536, [MSIX_BAR]: 4096 } as const;
export const VECTORS = 16;

const VENDOR_ID = 0x00;
const COMMAND = 0x04;
const STATUS = 0x06;
const CLASS = 0x08;
const BARS = 0x10;
const CAPABILITY_LIST = 0x34;
const INTERRUPT_LINE = 0x3c;
const INTERRUPT_PIN = 0x3d;
const MSIX = 0x40;
const MSIX_CONTROL = MSIX + 2;
const PBA_OFFSET = 0x800;

interface ConfigBytes {
  read(at: number, count: number): Uint8Array;
  write(at: number, data: Uint8Array): void;
}

/** Ranges that keep what is written, and the bits of BARs that do. */
const WRITABLE = new Map<number, number>([
  [COMMAND, 0x07],
  [COMMAND + 1, 0x04],
  [INTERRUPT_LINE, 0xff],
  [MSIX_CONTROL + 1, 0xc0],
]);
for (const [bar, bytes] of Object.entries(BAR_BYTES)) {
  const mask = ~(bytes - 1) >>> 0;
  for (let i = 0; i < 4; i++) WRITABLE.set(BARS + 4 * Number(bar) + i, (mask >>> (8 * i)) & 0xff);
}

/** After a reset. */
export function configSpace(): ConfigBytes {
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(VENDOR_ID, 0x11e8_1234, true);
  view.setUint16(STATUS, 0x0010, true);
  view.setUint32(CLASS, 0x00ff_0001, true);
  view.setUint8(CAPABILITY_LIST, MSIX);
  view.setUint8(INTERRUPT_PIN, 1);
  view.setUint8(MSIX, 0x11);
  view.setUint16(MSIX_CONTROL, VECTORS - 1, true);
  view.setUint32(MSIX + 4, MSIX_BAR, true);
  view.setUint32(MSIX + 8, PBA_OFFSET | MSIX_BAR, true);
  return {
    read: (at, count) => bytes.slice(at, at + count),
    write(at, data) {
      for (const [i, value] of data.entries()) {
        const mask = WRITABLE.get(at + i) ?? 0;
        bytes[at + i] = ((bytes[at + i] as number) & ~mask) | (value & mask);
      }
    },
  };
}

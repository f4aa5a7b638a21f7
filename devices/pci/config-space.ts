import {
  PCI_CAP_LIST_NEXT,
  PCI_CAPABILITY_LIST,
  type PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
} from './pci-regs.js';

/** Bytes of configuration space: 256 of conventional PCI, 4096 of PCI Express. */
export type ConfigSpaceSize = typeof PCI_CFG_SPACE_SIZE | typeof PCI_CFG_SPACE_EXP_SIZE;

/** All-ones of 1, 2 or 4 bytes: the value of a read that nothing claims. */
export const allOnes = (bytes: number): number => 2 ** (8 * bytes) - 1;

/** Value of 1, 2 or 4 bytes, least significant first; bytes past the end are all-ones. */
export function littleEndian(data: Uint8Array, at: number, bytes: number): number {
  let value = 0;
  for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (data[at + i] ?? 0xff);
  return value;
}

/**
 * The configuration space of one function, little-endian, with a mask of what a guest may change. Every bit is
 * read-only until {@link ConfigSpace.allow} makes it writable. Out-of-range reads return all-ones, out-of-range writes
 * are ignored.
 */
export class ConfigSpace {
  /** The register values. Writing to them bypasses the masks. */
  readonly values: Uint8Array<ArrayBuffer>;
  readonly #writable: Uint8Array<ArrayBuffer>;
  readonly #clearable: Uint8Array<ArrayBuffer>;
  /** Where the list's last next pointer is stored, and the first free byte after the last capability. */
  #link = PCI_CAPABILITY_LIST;
  #free = PCI_STD_HEADER_SIZEOF;
  #extendedLast = 0;
  #extendedFree = PCI_CFG_SPACE_SIZE;

  constructor(size: ConfigSpaceSize = PCI_CFG_SPACE_SIZE) {
    this.values = new Uint8Array(size);
    this.#writable = new Uint8Array(size);
    this.#clearable = new Uint8Array(size);
  }

  /** Length in bytes: 256 or 4096. */
  get size(): number {
    return this.values.length;
  }

  /** Reads 1, 2 or 4 bytes at any alignment. */
  read(offset: number, bytes: number): number {
    return littleEndian(this.values, offset, bytes);
  }

  /** Applies a guest's write of 1, 2 or 4 bytes through the masks. Returns whether any value changed. */
  write(offset: number, bytes: number, value: number): boolean {
    let isChanged = false;
    for (let i = 0; i < bytes; i++) {
      if (this.#writeByte(offset + i, (value >>> (8 * i)) & 0xff)) isChanged = true;
    }
    return isChanged;
  }

  /** Like {@link read}, for any length. */
  readBytes(offset: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) data[i] = this.values[offset + i] ?? 0xff;
  }

  /** Like {@link write}, for any length. */
  writeBytes(offset: number, data: Uint8Array): boolean {
    let isChanged = false;
    for (let i = 0; i < data.length; i++) {
      if (this.#writeByte(offset + i, data[i] as number)) isChanged = true;
    }
    return isChanged;
  }

  /** Writes as the device, bypassing the masks. @throws RangeError outside the space, or for a value of more bytes */
  set(offset: number, bytes: number, value: number): void {
    this.#check(offset, bytes);
    if (!Number.isInteger(value) || value < -(2 ** 31) || value > allOnes(bytes))
      throw new RangeError(`${hex(value)} does not fit in a register of ${bytes} bytes at ${hex(offset)}`);
    for (let i = 0; i < bytes; i++) this.values[offset + i] = (value >>> (8 * i)) & 0xff;
  }

  /**
   * Sets which bits of a register a guest may change.
   * @param writable bits that read back as written (RW)
   * @param clearable bits that writing 1 clears (RW1C)
   * @throws RangeError outside the space
   */
  allow(offset: number, bytes: number, writable: number, clearable = 0): void {
    this.#check(offset, bytes);
    for (let i = 0; i < bytes; i++) {
      this.#writable[offset + i] = (writable >>> (8 * i)) & 0xff;
      this.#clearable[offset + i] = (clearable >>> (8 * i)) & 0xff;
    }
  }

  /**
   * Appends a capability to the list. Returns its offset.
   * @param body everything after the id and next pointer
   * @param at its offset, a multiple of 4; by default after the last capability
   * @throws RangeError if it does not fit in the first 256 bytes
   */
  addCapability(id: number, body: Uint8Array, at = this.#free): number {
    if (at % 4 !== 0 || at < PCI_STD_HEADER_SIZEOF || at + 2 + body.length > PCI_CFG_SPACE_SIZE) {
      throw new RangeError(`capability ${hex(id)} of ${2 + body.length} bytes does not fit at ${hex(at)}`);
    }
    this.values[this.#link] = at;
    this.values[at] = id;
    this.values[at + PCI_CAP_LIST_NEXT] = 0;
    this.values.set(body, at + 2);
    this.values[PCI_STATUS] = (this.values[PCI_STATUS] as number) | PCI_STATUS_CAP_LIST;
    this.#link = at + PCI_CAP_LIST_NEXT;
    this.#free = Math.max(this.#free, (at + 2 + body.length + 3) & ~3);
    return at;
  }

  /**
   * Appends an extended capability; the first is at 0x100. Returns its offset.
   * @param body everything after the 4-byte header
   * @throws RangeError if it does not fit, or the space has only 256 bytes
   */
  addExtendedCapability(id: number, version: number, body: Uint8Array): number {
    const at = this.#extendedFree;
    if (at + 4 + body.length > this.size) {
      throw new RangeError(
        `extended capability ${hex(id)} of ${4 + body.length} bytes does not fit at ${hex(at)}`,
      );
    }
    if (id > 0xffff || version > 0xf)
      throw new RangeError(`extended capability ${hex(id)}, version ${version}`);
    if (this.#extendedLast !== 0) {
      const header = this.read(this.#extendedLast, 4);
      this.set(this.#extendedLast, 4, (header & 0x000fffff) | (at << 20));
    }
    this.set(at, 4, id | (version << 16));
    this.values.set(body, at + 4);
    this.#extendedLast = at;
    this.#extendedFree = (at + 4 + body.length + 3) & ~3;
    return at;
  }

  #writeByte(at: number, byte: number): boolean {
    const old = this.values[at];
    if (old === undefined) return false;
    const writable = this.#writable[at] as number;
    const value = ((old & ~writable) | (byte & writable)) & ~(byte & (this.#clearable[at] as number));
    this.values[at] = value;
    return value !== old;
  }

  #check(offset: number, bytes: number): void {
    if (offset < 0 || offset + bytes > this.size) {
      throw new RangeError(`register ${hex(offset)} of ${bytes} bytes in a space of ${this.size}`);
    }
  }
}

const hex = (value: number): string => `0x${value.toString(16)}`;

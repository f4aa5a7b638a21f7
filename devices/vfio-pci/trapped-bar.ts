import type { BusDevice } from '../contracts.js';
import type { BarArea } from './bar-layout.js';
import type { Msix } from './msix.js';
import { errorText, note } from './notes.js';
import type { Region } from './region.js';

const contains = (area: BarArea | undefined, offset: number): area is BarArea =>
  area !== undefined && offset >= area.offset && offset < area.offset + area.size;

/**
 * Handles a BAR's trapped accesses: MSI-X for its table and PBA, the device's region for the rest. KVM reports an access
 * of 8 bytes that begins before the table as one exit, so an access is split where table and PBA begin and end.
 */
export class TrappedBar implements BusDevice {
  readonly name: string;
  readonly #region: Region;
  #msix: Msix | undefined;
  #table: BarArea | undefined;
  #pba: BarArea | undefined;
  #isForwarded = false;
  /** The device refuses accesses to its table or PBA, which is noted once: it has no use for them. */
  #isRefused = false;

  constructor(name: string, region: Region) {
    this.name = name;
    this.#region = region;
  }

  /**
   * Forwards accesses to the MSI-X table and PBA in this BAR to `msix`.
   * @param isForwarded the device masks vectors by its own table, and keeps what is pending in its own PBA
   */
  attach(msix: Msix, bar: number, isForwarded = false): void {
    this.#isForwarded = isForwarded;
    const { table, pba } = msix.shape;
    this.#msix = msix;
    this.#table = table.bar === bar ? table : undefined;
    this.#pba = pba.bar === bar ? pba : undefined;
  }

  read(offset: number, data: Uint8Array): void {
    const end = this.#endOfPart(offset);
    if (offset + data.length <= end) this.#readPart(offset, data);
    else this.#split(offset, data, (at, piece) => this.#readPart(at, piece));
  }

  write(offset: number, data: Uint8Array): void {
    const end = this.#endOfPart(offset);
    if (offset + data.length <= end) this.#writePart(offset, data);
    else this.#split(offset, data, (at, piece) => this.#writePart(at, piece));
  }

  #readPart(offset: number, data: Uint8Array): void {
    if (contains(this.#table, offset)) this.#msix?.readTable(offset - this.#table.offset, data);
    else if (contains(this.#pba, offset)) this.#readPba(offset, offset - this.#pba.offset, data);
    else this.#region.read(offset, data);
  }

  #writePart(offset: number, data: Uint8Array): void {
    // Pending bits are read-only.
    if (contains(this.#pba, offset)) return;
    if (!contains(this.#table, offset)) {
      this.#region.write(offset, data);
      return;
    }
    const isValid = this.#msix?.writeTable(offset - this.#table.offset, data) === true;
    // Afterwards: once the device unmasks a vector, its interrupt needs an eventfd.
    if (isValid && this.#isForwarded) this.#tell(() => this.#region.writePart(offset, data));
  }

  /** A vector is pending here or in the device, wherever it was masked when its interrupt came. */
  #readPba(offset: number, at: number, data: Uint8Array): void {
    this.#msix?.readPba(at, data);
    if (!this.#isForwarded) return;
    const theirs = new Uint8Array(data.length);
    if (!this.#tell(() => this.#region.readPart(offset, theirs))) return;
    for (const [i, byte] of theirs.entries()) data[i] = (data[i] as number) | byte;
  }

  /** Accesses the device's own table or PBA. Most vfio-user servers have no use for it, and some refuse. */
  #tell(access: () => void): boolean {
    try {
      access();
      return true;
    } catch (error) {
      if (!this.#isRefused)
        note(this.#region.device, 'msix', `its own MSI-X table is not used: ${errorText(error)}`);
      this.#isRefused = true;
      return false;
    }
  }

  #split(offset: number, data: Uint8Array, access: (at: number, piece: Uint8Array) => void): void {
    for (let done = 0; done < data.length; ) {
      const at = offset + done;
      const bytes = Math.min(data.length - done, this.#endOfPart(at) - at);
      access(at, data.subarray(done, done + bytes));
      done += bytes;
    }
  }

  /** Where the table, the PBA or the space between them ends that `offset` lies in. */
  #endOfPart(offset: number): number {
    return Math.min(nextEdge(this.#table, offset), nextEdge(this.#pba, offset));
  }
}

function nextEdge(area: BarArea | undefined, offset: number): number {
  if (area === undefined || area.size === 0) return Number.POSITIVE_INFINITY;
  if (offset < area.offset) return area.offset;
  return offset < area.offset + area.size ? area.offset + area.size : Number.POSITIVE_INFINITY;
}

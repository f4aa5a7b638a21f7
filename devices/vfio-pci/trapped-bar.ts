import type { BusDevice } from '../contracts.js';
import type { BarArea } from './bar-layout.js';
import type { Msix } from './msix.js';
import type { Region } from './region.js';

const contains = (area: BarArea | undefined, offset: number): area is BarArea =>
  area !== undefined && offset >= area.offset && offset < area.offset + area.size;

/** Handles a BAR's trapped accesses: MSI-X for its table and PBA, the device's region for the rest. */
export class TrappedBar implements BusDevice {
  readonly name: string;
  readonly #region: Region;
  #msix: Msix | undefined;
  #table: BarArea | undefined;
  #pba: BarArea | undefined;

  constructor(name: string, region: Region) {
    this.name = name;
    this.#region = region;
  }

  /** Forwards accesses to the MSI-X table and PBA in this BAR to `msix`. */
  attach(msix: Msix, bar: number): void {
    const { table, pba } = msix.shape;
    this.#msix = msix;
    this.#table = table.bar === bar ? table : undefined;
    this.#pba = pba.bar === bar ? pba : undefined;
  }

  read(offset: number, data: Uint8Array): void {
    if (contains(this.#table, offset)) this.#msix?.readTable(offset - this.#table.offset, data);
    else if (contains(this.#pba, offset)) this.#msix?.readPba(offset - this.#pba.offset, data);
    else this.#region.read(offset, data);
  }

  write(offset: number, data: Uint8Array): void {
    if (contains(this.#table, offset)) this.#msix?.writeTable(offset - this.#table.offset, data);
    // Pending bits are read-only.
    else if (!contains(this.#pba, offset)) this.#region.write(offset, data);
  }
}

import { PAGE_SIZE } from '../../sys/address.js';
import type { PageExits } from '../../vfio/assign/index.js';
import type { BusDevice } from '../contracts.js';

/** Pages of a BAR whose exits are counted one by one: a BAR can have millions, and the guest chooses which it accesses. */
export const MOST_PAGES = 1024;
const PAGE_BYTES = Number(PAGE_SIZE);

interface Count {
  readonly offset: number;
  reads: number;
  writes: number;
}

/** Counts the accesses to a device by page, on their way to it. */
export class CountedBar implements BusDevice {
  readonly name: string;
  readonly #device: BusDevice;
  readonly #pages = new Map<number, Count>();
  /** Of the pages beyond {@link MOST_PAGES}. */
  readonly #others: Count = { offset: -1, reads: 0, writes: 0 };
  #last: Count = this.#others;

  constructor(device: BusDevice) {
    this.name = device.name;
    this.#device = device;
  }

  read(offset: number, data: Uint8Array): void {
    this.#count(offset).reads++;
    this.#device.read(offset, data);
  }

  write(offset: number, data: Uint8Array): void {
    this.#count(offset).writes++;
    this.#device.write(offset, data);
  }

  /** In order of their offsets. */
  get pages(): readonly PageExits[] {
    return [...this.#pages.values()].map((count) => ({ ...count })).sort((a, b) => a.offset - b.offset);
  }

  get others(): number {
    return this.#others.reads + this.#others.writes;
  }

  #count(offset: number): Count {
    const page = offset - (offset % PAGE_BYTES);
    if (this.#last.offset === page) return this.#last;
    let count = this.#pages.get(page);
    if (count === undefined) {
      if (this.#pages.size === MOST_PAGES) return this.#others;
      count = { offset: page, reads: 0, writes: 0 };
      this.#pages.set(page, count);
    }
    this.#last = count;
    return count;
  }
}

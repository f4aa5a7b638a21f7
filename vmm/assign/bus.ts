import type { Bus, BusDevice } from '../../devices/contracts.js';
import { formatRange } from '../../sys/address.js';
import { disposable } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';

interface Entry {
  readonly base: number;
  readonly end: number;
  readonly device: BusDevice;
  accesses: number;
}

/**
 * Disjoint address ranges, each claimed by one device. Addresses are numbers: guest physical addresses and ports are below
 * 2^53, and no device claims an address above. Machine thread only.
 */
export class RangeBus implements Bus {
  readonly kind: Bus['kind'];
  #entries: Entry[] = [];
  #last: Entry | undefined;
  /** Accesses to ranges that were removed, by device name. */
  readonly #past = new Map<string, number>();

  constructor(kind: Bus['kind']) {
    this.kind = kind;
  }

  add(base: bigint, bytes: bigint, device: BusDevice): Disposable {
    const entry: Entry = { base: Number(base), end: Number(base + bytes), device, accesses: 0 };
    if (bytes <= 0n || base < 0n)
      throw new RangeError(`${device.name}: ${bytes} bytes at 0x${base.toString(16)}`);
    const at = this.#firstEndingAfter(entry.base);
    const next = this.#entries[at];
    if (next !== undefined && next.base < entry.end) {
      throw new RangeError(
        `${device.name} at ${this.kind} ${formatRange(base, bytes)} overlaps ${next.device.name}`,
      );
    }
    this.#entries.splice(at, 0, entry);
    return disposable(() => {
      this.#entries.splice(this.#entries.indexOf(entry), 1);
      this.#last = undefined;
      this.#past.set(device.name, (this.#past.get(device.name) ?? 0) + entry.accesses);
    });
  }

  /** Reads from the device that claims all bytes of the access; fills `data` with ones if none does. */
  read(address: number, data: Uint8Array): void {
    data.fill(0xff);
    const entry = this.#find(address, data.length);
    if (entry !== undefined) entry.device.read(address - entry.base, data);
    else this.#unclaimed(address, data, false);
  }

  /** Writes to the device that claims all bytes of the access; drops the write if none does. */
  write(address: number, data: Uint8Array): void {
    const entry = this.#find(address, data.length);
    if (entry !== undefined) entry.device.write(address - entry.base, data);
    else this.#unclaimed(address, data, true);
  }

  /** Number of accesses to each device since the start, by device name; removed devices included. */
  accesses(): ReadonlyMap<string, number> {
    const sums = new Map(this.#past);
    for (const { device, accesses } of this.#entries)
      sums.set(device.name, (sums.get(device.name) ?? 0) + accesses);
    return sums;
  }

  #find(address: number, bytes: number): Entry | undefined {
    let entry = this.#last;
    if (entry === undefined || address < entry.base || address >= entry.end) {
      entry = this.#entries[this.#firstEndingAfter(address)];
      if (entry === undefined || address < entry.base) return undefined;
      this.#last = entry;
    }
    if (address + bytes > entry.end) return undefined;
    entry.accesses++;
    return entry;
  }

  #firstEndingAfter(address: number): number {
    let low = 0;
    let high = this.#entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#entries[middle] as Entry).end <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #unclaimed(address: number, data: Uint8Array, isWrite: boolean): void {
    if (!trace.unclaimed.hasSubscribers) return;
    trace.unclaimed.publish({ bus: this.kind, address, bytes: data.length, isWrite });
  }
}

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

  /** Reads from the devices that claim the bytes; those that no device claims are ones. */
  read(address: number, data: Uint8Array): void {
    data.fill(0xff);
    const entry = this.#find(address);
    if (entry !== undefined && address + data.length <= entry.end) this.#access(entry, address, data, false);
    else this.#split(address, data, false);
  }

  /** Writes to the devices that claim the bytes; drops those that no device claims. */
  write(address: number, data: Uint8Array): void {
    const entry = this.#find(address);
    if (entry !== undefined && address + data.length <= entry.end) this.#access(entry, address, data, true);
    else this.#split(address, data, true);
  }

  /** Number of accesses to each device since the start, by device name; removed devices included. */
  accesses(): ReadonlyMap<string, number> {
    const sums = new Map(this.#past);
    for (const { device, accesses } of this.#entries)
      sums.set(device.name, (sums.get(device.name) ?? 0) + accesses);
    return sums;
  }

  #access(entry: Entry, address: number, data: Uint8Array, isWrite: boolean): void {
    entry.accesses++;
    if (isWrite) entry.device.write(address - entry.base, data);
    else entry.device.read(address - entry.base, data);
  }

  /**
   * KVM reports an access of up to 8 bytes as one exit, whatever lies there. As on a bus of byte lanes, each device gets
   * its own bytes, as accesses that are naturally aligned. A write may change what lies behind it.
   */
  #split(address: number, data: Uint8Array, isWrite: boolean): void {
    for (let done = 0; done < data.length; ) {
      const at = address + done;
      const left = data.length - done;
      const entry = this.#find(at);
      if (entry === undefined) {
        const next = this.#entries[this.#firstEndingAfter(at)];
        const bytes = next === undefined ? left : Math.min(left, next.base - at);
        this.#unclaimed(at, bytes, isWrite);
        done += bytes;
      } else {
        const bytes = alignedBytes(at, Math.min(left, entry.end - at));
        this.#access(entry, at, data.subarray(done, done + bytes), isWrite);
        done += bytes;
      }
    }
  }

  #find(address: number): Entry | undefined {
    let entry = this.#last;
    if (entry === undefined || address < entry.base || address >= entry.end) {
      entry = this.#entries[this.#firstEndingAfter(address)];
      if (entry === undefined || address < entry.base) return undefined;
      this.#last = entry;
    }
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

  #unclaimed(address: number, bytes: number, isWrite: boolean): void {
    if (!trace.unclaimed.hasSubscribers) return;
    trace.unclaimed.publish({ bus: this.kind, address, bytes, isWrite });
  }
}

/** The longest naturally aligned access at `address` that is at most `most` long. */
function alignedBytes(address: number, most: number): number {
  let bytes = 1;
  while (bytes * 2 <= most && address % (bytes * 2) === 0) bytes *= 2;
  return bytes;
}

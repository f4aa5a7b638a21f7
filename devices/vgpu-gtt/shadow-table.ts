import { type Gpa, gpa, PAGE_SIZE } from '../../sys/address.js';
import { SysError } from '../../sys/error.js';
import type { KvmGuest } from '../../sys/kvm-guest.js';
import { ENTRY_ADDRESS, ENTRY_BYTES, ENTRY_VALID } from './spec.js';

const PAGE = Number(PAGE_SIZE);
const UNMAPPED = -1;
const BAD = -2;

/** Where the guest has its table. */
export interface TableAt {
  readonly base: Gpa;
  readonly entries: number;
}

/**
 * A copy of the guest's table that holds addresses of RAM only. The guest's table is read when it is written and at no other
 * time, so what the guest wrote is checked once, and a page that is shown costs no look into it.
 */
export class ShadowTable {
  readonly #guest: KvmGuest;
  readonly #at: TableAt;
  /** Guest physical address of each entry's page: below 2^52; UNMAPPED, or BAD if the guest's entry is not of RAM. */
  readonly #pages: Float64Array;
  #bad = 0;

  constructor(guest: KvmGuest, at: TableAt) {
    this.#guest = guest;
    this.#at = at;
    this.#pages = new Float64Array(at.entries).fill(UNMAPPED);
  }

  /** Number of valid entries that are not RAM. */
  get bad(): number {
    return this.#bad;
  }

  get bytes(): number {
    return this.#at.entries * ENTRY_BYTES;
  }

  get entries(): number {
    return this.#at.entries;
  }

  /** The pages that hold the table. */
  get frames(): { readonly gfn: bigint; readonly pages: bigint } {
    return { gfn: this.#at.base / PAGE_SIZE, pages: (BigInt(this.bytes) + PAGE_SIZE - 1n) / PAGE_SIZE };
  }

  /**
   * Reads the entries that the bytes belong to from guest memory; those outside the table are ignored.
   * @returns how many
   * @throws SysError EFAULT if the table's memory is gone
   */
  update(at: Gpa, bytes: number): number {
    const from = Math.max(0, Math.floor(Number(at - this.#at.base) / ENTRY_BYTES));
    const end = Math.min(this.entries, Math.ceil((Number(at - this.#at.base) + bytes) / ENTRY_BYTES));
    if (from >= end) return 0;
    const raw = new BigUint64Array(end - from);
    const first = gpa(this.#at.base + BigInt(from * ENTRY_BYTES));
    this.#guest.readGuest(first, new Uint8Array(raw.buffer));
    for (const [i, entry] of raw.entries()) this.#set(from + i, entry);
    return end - from;
  }

  #set(index: number, entry: bigint): void {
    const address = entry & ENTRY_ADDRESS;
    const isThere = (entry & ENTRY_VALID) !== 0n;
    const page = !isThere ? UNMAPPED : this.#guest.isVisibleGfn(address / PAGE_SIZE) ? Number(address) : BAD;
    if (this.#pages[index] === BAD) this.#bad--;
    if (page === BAD) this.#bad++;
    this.#pages[index] = page;
  }

  /** Fills `data` from graphics memory; pages that are not there, or whose RAM is gone, are black. */
  read(offset: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      const at = offset + done;
      const within = at % PAGE;
      const part = data.subarray(done, Math.min(data.length, done + PAGE - within));
      this.#readPage(Math.floor(at / PAGE), within, part);
      done += part.length;
    }
  }

  #readPage(index: number, within: number, data: Uint8Array): void {
    const page = this.#pages[index] ?? UNMAPPED;
    try {
      if (page < 0) data.fill(0);
      else this.#guest.readGuest(gpa(BigInt(page + within)), data);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      data.fill(0);
    }
  }
}

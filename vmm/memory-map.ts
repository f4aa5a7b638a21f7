import type { GuestMapper } from '../devices/contracts.js';
import { formatRange, type Gpa, gpa, type Hva, offset } from '../sys/address.js';
import { Mapping, type MemoryView } from '../sys/mapping.js';
import { disposable, Scope } from '../sys/scope.js';
import { trace } from '../sys/trace.js';
import { inject, injectable } from './injection.js';
import { HIGH_RAM_BASE, LOW_RAM_END } from './layout.js';

/** Host memory at a guest physical address. */
export interface MemoryRegion {
  /** `ram`: the guest's own memory. `device`: part of an assigned device's BAR. */
  readonly kind: 'ram' | 'device';
  readonly name: string;
  readonly gpa: Gpa;
  readonly hva: Hva;
  readonly bytes: bigint;
}

/** Follows the memory map: an IOMMU's maps, for one. */
export interface MemoryListener {
  /** @throws SysError if the listener cannot do without the region; the change is then undone */
  added(region: MemoryRegion): void;
  removed(region: MemoryRegion): void;
}

/** What makes memory visible to the guest: KVM's slots. */
export interface MemorySlotPort {
  add(gpa: Gpa, hva: Hva, bytes: bigint): Disposable;
}
export const MemorySlotPort = Symbol('MemorySlotPort');

/** The guest's physical memory, and who has to be told when it changes. Machine thread only. */
@injectable()
export class MemoryMap implements GuestMapper, Disposable {
  readonly #slots: MemorySlotPort;
  readonly #regions = new Set<MemoryRegion>();
  readonly #listeners: MemoryListener[] = [];
  readonly #scope = new Scope();
  #ram: MemoryView | undefined;

  constructor(@inject(MemorySlotPort) slots: MemorySlotPort) {
    this.#slots = slots;
  }

  /**
   * Gives the guest its RAM: from 0 up to the hole below 4 GiB, the rest from 4 GiB.
   * @param memory `bytes` large, and there for as long as the map; made anew if not given
   * @throws SysError ENOMEM
   */
  addRam(bytes: bigint, memory?: Mapping): void {
    const mapping = memory ?? this.#scope.own(Mapping.huge(Number(bytes)));
    this.#ram = mapping.view;
    const low = bytes < LOW_RAM_END ? bytes : LOW_RAM_END;
    const base = mapping.hva;
    this.#scope.own(this.#add({ kind: 'ram', name: 'ram', gpa: gpa(0n), hva: base, bytes: low }));
    if (bytes === low) return;
    const high = { gpa: gpa(HIGH_RAM_BASE), hva: offset(base, low), bytes: bytes - low };
    this.#scope.own(this.#add({ kind: 'ram', name: 'ram above 4 GiB', ...high }));
  }

  map(at: Gpa, hva: Hva, bytes: bigint, name: string): Disposable {
    return this.#add({ kind: 'device', name, gpa: at, hva, bytes });
  }

  /** Tells `listener` of all regions there are, and of each change until the result is disposed. */
  listen(listener: MemoryListener): Disposable {
    const told: MemoryRegion[] = [];
    try {
      for (const region of this.#regions) {
        listener.added(region);
        told.push(region);
      }
    } catch (error) {
      for (const region of told.reverse()) listener.removed(region);
      throw error;
    }
    this.#listeners.push(listener);
    return disposable(() => {
      this.#listeners.splice(this.#listeners.indexOf(listener), 1);
      for (const region of [...this.#regions].reverse()) listener.removed(region);
    });
  }

  get regions(): readonly MemoryRegion[] {
    return [...this.#regions];
  }

  /**
   * Guest RAM, to be filled before the guest runs.
   * @throws RangeError if the range is not in RAM below 4 GiB
   */
  ram(at: bigint, bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#ram === undefined || at + BigInt(bytes) > LOW_RAM_END) {
      throw new RangeError(`${formatRange(at, BigInt(bytes))} is not in the guest's low memory`);
    }
    return this.#ram.slice(Number(at), bytes);
  }

  #add(region: MemoryRegion): Disposable {
    using undo = new Scope();
    undo.own(this.#slots.add(region.gpa, region.hva, region.bytes));
    this.#regions.add(region);
    undo.defer(() => this.#regions.delete(region));
    for (const listener of this.#listeners) {
      listener.added(region);
      undo.defer(() => {
        if (this.#listeners.includes(listener)) listener.removed(region);
      });
    }
    this.#publish('added', region);
    undo.defer(() => this.#publish('removed', region));
    return undo.move();
  }

  #publish(what: 'added' | 'removed', region: MemoryRegion): void {
    if (trace.memory.hasSubscribers) trace.memory.publish({ what, ...region });
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

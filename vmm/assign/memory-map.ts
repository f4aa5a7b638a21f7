import type { GuestMapper } from '../../devices/contracts.js';
import { formatRange, type Gpa, type Hva, offset } from '../../sys/address.js';
import type { Mapping } from '../../sys/mapping.js';
import { disposable, Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import type { GuestMemory, MemoryListener, MemoryRegion } from '../../vfio/assign/index.js';

/** Port: maps host memory into the guest; `MemorySlots` of tsvisor/kvm does it with KVM's memory slots. */
export interface MemorySlotPort {
  /** @throws SysError EEXIST on overlap; EINVAL misaligned; ENOSPC */
  add(gpa: Gpa, hva: Hva, bytes: bigint): Disposable;
}
/** Token of the port {@link MemorySlotPort}. */
export const MemorySlotPort = Symbol('MemorySlotPort');

/** Where in a mapping a range of guest RAM lies. */
export interface RamPart {
  /** For messages; `ram` if absent. */
  readonly name?: string;
  /** Bytes from the mapping's start, a multiple of the page size; 0 if absent. */
  readonly offset?: bigint;
  /** Whole pages; the rest of the mapping if absent. */
  readonly bytes?: bigint;
}

/** A range of guest RAM with the mapping behind it. */
interface Ram {
  readonly region: MemoryRegion;
  readonly mapping: Mapping;
  readonly offset: bigint;
}

/**
 * The guest's physical memory: RAM and mapped BARs, with everybody who follows it. Used by the thread that owns the VM.
 * Disposing removes the RAM that is left.
 */
export class MemoryMap implements GuestMemory, GuestMapper, Disposable {
  readonly #slots: MemorySlotPort;
  readonly #regions = new Set<MemoryRegion>();
  readonly #rams = new Set<Ram>();
  readonly #listeners: MemoryListener[] = [];
  readonly #scope = new Scope();

  constructor(slots: MemorySlotPort) {
    this.#slots = slots;
  }

  /**
   * Gives the guest RAM at `at`, and maps it for the DMA of all attached devices.
   * @param mapping stays mapped until the result, or this map, is disposed
   * @throws SysError EEXIST on overlap with another slot; EINVAL misaligned; what a listener refuses it with
   */
  addRam(at: Gpa, mapping: Mapping, part: RamPart = {}): Disposable {
    const { name = 'ram', offset: start = 0n, bytes = BigInt(mapping.bytes) - start } = part;
    const region: MemoryRegion = { kind: 'ram', name, gpa: at, hva: offset(mapping.hva, start), bytes };
    const added = this.#add(region);
    const ram = { region, mapping, offset: start };
    this.#rams.add(ram);
    return this.#scope.own(
      disposable(() => {
        this.#rams.delete(ram);
        added[Symbol.dispose]();
      }),
    );
  }

  map(at: Gpa, hva: Hva, bytes: bigint, name: string): Disposable {
    return this.#add({ kind: 'device', name, gpa: at, hva, bytes });
  }

  listen(listener: MemoryListener): Disposable {
    const heard: MemoryRegion[] = [];
    try {
      for (const region of this.#regions) {
        listener.added(region);
        heard.push(region);
      }
    } catch (error) {
      for (const region of heard.reverse()) listener.removed(region);
      throw error;
    }
    this.#listeners.push(listener);
    return disposable(() => {
      this.#listeners.splice(this.#listeners.indexOf(listener), 1);
      for (const region of [...this.#regions].reverse()) listener.removed(region);
    });
  }

  /** Everything that is mapped now, in the order in which it was added. */
  get regions(): readonly MemoryRegion[] {
    return [...this.#regions];
  }

  /**
   * Bytes of guest RAM, without copying. The guest may write them at any time once it runs.
   * @throws RangeError if the range does not lie in one piece of RAM
   */
  ram(at: bigint, bytes: number): Uint8Array<ArrayBuffer> {
    for (const { region, mapping, offset: start } of this.#rams) {
      if (at < region.gpa || at + BigInt(bytes) > region.gpa + region.bytes) continue;
      return mapping.view.slice(Number(at - region.gpa + start), bytes);
    }
    throw new RangeError(`${formatRange(at, BigInt(bytes))} is not in guest RAM`);
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
    if (!trace.memory.hasSubscribers) return;
    const { name, gpa, hva, bytes } = region;
    trace.memory.publish({ what, name, gpa, hva, bytes, range: formatRange(gpa, bytes) });
  }

  /** Removes the RAM that is left, last added first. */
  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

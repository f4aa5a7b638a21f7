import type { GuestMapper } from '../../devices/contracts.js';
import { formatRange, type Gpa, type Hva, type Iova, offset } from '../../sys/address.js';
import { type Mapping, MemoryView } from '../../sys/mapping.js';
import { monotonicMs } from '../../sys/monotonic.js';
import { disposable, Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import type { GuestMemory, MemoryListener, MemoryRegion } from '../../vfio/assign/index.js';
import { type PageRun, SplitSlot } from './split-slot.js';

/** How the guest may use a slot. */
export interface MemorySlotUse {
  /** Guest writes exit as MMIO. */
  readonly isReadonly?: boolean | undefined;
}

/** Host memory mapped into the guest until it is disposed. */
export interface PortSlot extends Disposable {
  /** Starts or stops a log of the pages that the guest writes; absent if the port has none. */
  setLogged?(isLogged: boolean): void;
  /** Pages written since the last call: bit n, lowest first, is page n. */
  getDirtyLog?(): Uint8Array;
}

/** Pages of RAM that the guest has written. */
export interface WrittenRam {
  /** The range. */
  readonly region: MemoryRegion;
  /** Its first byte in the mapping that it was added from. */
  readonly offset: bigint;
  /** One bit for each page, lowest first, in units of 8 bytes. */
  readonly pages: Uint8Array;
}

/** Port: maps host memory into the guest. `MemorySlots` of tsvisor/kvm implements it. */
export interface MemorySlotPort {
  /**
   * Maps `bytes` of host memory, whole pages, until the result is disposed; guest writes exit if `isReadonly`.
   * @throws SysError EEXIST on overlap with another slot; EINVAL if misaligned; ENOSPC if no slot is free
   */
  add(gpa: Gpa, hva: Hva, bytes: bigint, options?: MemorySlotUse): PortSlot;
}
/** Token of the port {@link MemorySlotPort}. */
export const MemorySlotPort = Symbol('MemorySlotPort');

/** The part of a mapping that becomes guest RAM. */
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
  readonly slot: SplitSlot;
  /** Views that were made for themselves. */
  views: number;
}

/**
 * The first views of a range are made for themselves, as those that load a guest: a window on the memory makes all others quicker, but V8
 * counts it as held, and collects garbage at once for 64 MiB of it.
 */
const FEW_VIEWS = 64;
/** Bytes of such a view, at most. */
const SMALL_VIEW = 16 << 20;

const offsetIn = ({ region, offset }: Ram, at: bigint): number => Number(at - region.gpa + offset);

/** A map of a region for DMA. */
export interface DmaMapState {
  /** The I/O address space: `host container`. */
  readonly space: string;
  /** Address for devices. */
  readonly iova: Iova;
  /** How long the map took, in milliseconds; its share of that if several were made at once. */
  readonly ms: number;
}

/** A region of guest memory: what the guest, the process and the devices call it. */
export interface MemoryRegionState {
  /** `ram`; `device` is a mapped part of a BAR; `rom` can only be read by the guest, and not by devices. */
  readonly kind: 'ram' | 'device' | 'rom';
  /** `ram`, `00:03.0 virtio-net BAR4` */
  readonly name: string;
  /** Address for the guest. */
  readonly gpa: Gpa;
  /** Address in this process. */
  readonly hva: Hva;
  /** Length. */
  readonly bytes: bigint;
  /** How long it took to map it into the guest (KVM_SET_USER_MEMORY_REGION), in milliseconds. */
  readonly ms: number;
  /** Where devices reach it. */
  readonly dma: readonly DmaMapState[];
}

/** A report of a region to a listener, and how long that took. */
interface Heard extends Disposable {
  readonly ms: number;
}

/** A listener, with the regions that were reported to it; disposing one reports it removed. */
interface Follower {
  readonly listener: MemoryListener;
  readonly heard: Map<MemoryRegion, Heard>;
}

function follow(follower: Follower, region: MemoryRegion): void {
  const begun = monotonicMs();
  follower.listener.added(region);
  hasHeard(follower, region, monotonicMs() - begun);
}

function followAll(follower: Follower, regions: readonly MemoryRegion[]): void {
  const { listener } = follower;
  if (listener.addedAll === undefined) {
    for (const region of regions) follow(follower, region);
    return;
  }
  const begun = monotonicMs();
  listener.addedAll(regions);
  const ms = (monotonicMs() - begun) / regions.length;
  for (const region of regions) hasHeard(follower, region, ms);
}

function hasHeard({ listener, heard }: Follower, region: MemoryRegion, ms: number): void {
  const forget = disposable(() => {
    heard.delete(region);
    listener.removed(region);
  });
  heard.set(region, { ms, ...forget });
}

function dmaMapOf({ listener, heard }: Follower, region: MemoryRegion): DmaMapState | undefined {
  const iova = listener.iovaOf?.(region);
  const ms = listener.mapMs?.(region) ?? heard.get(region)?.ms;
  return iova === undefined || ms === undefined ? undefined : { space: listener.space ?? 'dma', iova, ms };
}

/** Last added first. A failure does not keep the others from being reported. */
function forgetAll({ heard }: Follower): void {
  using scope = new Scope();
  for (const region of heard.values()) scope.own(region);
}

/**
 * The guest's physical memory: RAM and mapped BARs. Notifies its listeners of each change. Used by the thread that owns
 * the VM.
 */
export class MemoryMap implements GuestMemory, GuestMapper, Disposable {
  readonly #slots: MemorySlotPort;
  /** The regions, each with the milliseconds that its slot took. */
  readonly #regions = new Map<MemoryRegion, number>();
  readonly #roms = new Set<MemoryRegionState>();
  readonly #rams = new Set<Ram>();
  readonly #followers: Follower[] = [];
  readonly #scope = new Scope();

  constructor(slots: MemorySlotPort) {
    this.#slots = slots;
  }

  /**
   * Maps RAM into the guest at `at`, and for DMA of all attached devices, until the result or this map is disposed.
   * @param mapping has to stay mapped until then
   * @throws SysError EEXIST on overlap with another slot; EINVAL if misaligned; the error of a listener, for example a
   *   failed DMA map; RangeError for a part that does not lie in the mapping. The RAM is then not added
   */
  addRam(at: Gpa, mapping: Mapping, part: RamPart = {}): Disposable {
    const { name = 'ram', offset: start = 0n, bytes = BigInt(mapping.bytes) - start } = part;
    // KVM and VFIO would map what lies beyond it just as well.
    if (start < 0n || start + bytes > BigInt(mapping.bytes))
      throw new RangeError(`${name}: bytes ${start} to ${start + bytes} of a mapping of ${mapping.bytes}`);
    const region: MemoryRegion = { kind: 'ram', name, gpa: at, hva: offset(mapping.hva, start), bytes };
    const { slot, added } = this.#add(region, () => new SplitSlot(this.#slots, region));
    const ram: Ram = { region, mapping, offset: start, slot, views: 0 };
    this.#rams.add(ram);
    return this.#scope.own(
      disposable(() => {
        this.#rams.delete(ram);
        added[Symbol.dispose]();
      }),
    );
  }

  map(at: Gpa, hva: Hva, bytes: bigint, name: string): Disposable {
    return this.#add({ kind: 'device', name, gpa: at, hva, bytes }, () => this.#slots.add(at, hva, bytes))
      .added;
  }

  /** Without the listeners, as nothing does DMA to it. */
  mapReadonly(at: Gpa, hva: Hva, bytes: bigint, name = 'rom'): Disposable {
    using undo = new Scope();
    const begun = monotonicMs();
    undo.own(this.#slots.add(at, hva, bytes, { isReadonly: true }));
    const ms = monotonicMs() - begun;
    const rom: MemoryRegionState = { kind: 'rom', name, gpa: at, hva, bytes, ms, dma: [] };
    this.#roms.add(rom);
    undo.defer(() => this.#roms.delete(rom));
    return undo.move();
  }

  listen(listener: MemoryListener): Disposable {
    const follower: Follower = { listener, heard: new Map() };
    using undo = new Scope();
    undo.defer(() => forgetAll(follower));
    followAll(follower, this.regions);
    this.#followers.push(follower);
    undo.defer(() => this.#followers.splice(this.#followers.indexOf(follower), 1));
    const owned = undo.move();
    return disposable(() => owned[Symbol.dispose]());
  }

  /** The regions mapped now, in the order in which they were added. */
  get regions(): readonly MemoryRegion[] {
    return [...this.#regions.keys()];
  }

  /** What is mapped now, by guest physical address. Plain data. */
  inspect(): readonly MemoryRegionState[] {
    const mapped = [...this.#regions].map(([region, ms]): MemoryRegionState => {
      const { kind, name, gpa: at, hva, bytes } = region;
      const dma = this.#followers.flatMap((follower) => dmaMapOf(follower, region) ?? []);
      return { kind, name, gpa: at, hva, bytes, ms, dma };
    });
    return [...mapped, ...this.#roms].sort((a, b) => (a.gpa < b.gpa ? -1 : 1));
  }

  /**
   * Bytes of guest RAM, without copying. Once the guest runs, it can change them at any time.
   * @throws RangeError unless one range of RAM contains all of them
   */
  ram(at: bigint, bytes: number): Uint8Array<ArrayBuffer> {
    const ram = this.#ramOf(at, BigInt(bytes));
    if (ram === undefined) throw new RangeError(`${formatRange(at, BigInt(bytes))} is not in guest RAM`);
    if (ram.views === FEW_VIEWS || bytes > SMALL_VIEW)
      return ram.mapping.view.slice(offsetIn(ram, at), bytes);
    ram.views++;
    return new MemoryView(ram.mapping.view.address + offsetIn(ram, at), bytes).slice(0, bytes);
  }

  /** As {@link ram}; undefined unless one range of RAM contains all of them. */
  ramAt(at: bigint, bytes: number): Uint8Array<ArrayBuffer> | undefined {
    const ram = this.#ramOf(at, BigInt(bytes));
    return ram?.mapping.view.slice(offsetIn(ram, at), bytes);
  }

  /** The range of RAM that contains all of these bytes; undefined if none does. */
  ramRegion(at: bigint, bytes: bigint): MemoryRegion | undefined {
    return this.#ramOf(at, bytes)?.region;
  }

  /**
   * Makes the guest's writes to `runs` of a range of RAM exit, and no others in it. DMA maps stay as they are, and so does
   * what devices write. No processor may be in the guest meanwhile.
   * @param runs pages from the start of the range; ascending, neither touching nor overlapping
   * @throws RangeError if it is no range of RAM; as {@link MemorySlotPort.add}, with nothing changed
   */
  setReadonly(region: MemoryRegion, runs: readonly PageRun[]): void {
    for (const ram of this.#rams) {
      if (ram.region !== region) continue;
      ram.slot.setReadonly(runs);
      return;
    }
    throw new RangeError(`${formatRange(region.gpa, region.bytes)} is no range of RAM`);
  }

  /**
   * Starts or stops a log of the pages of RAM that the guest writes: for each range, all or none.
   * @throws SysError ENOTSUP if the hypervisor's slots have none; of the hypervisor
   */
  setLogged(isLogged: boolean): void {
    for (const { slot } of this.#rams) slot.setLogged(isLogged);
  }

  /** What the guest has written since the log was started, or this was called last. Not what devices have. @throws as {@link setLogged} */
  takeWritten(): readonly WrittenRam[] {
    return [...this.#rams].map(({ region, offset: at, slot }) => ({
      ...{ region, offset: at },
      pages: slot.takeWritten(),
    }));
  }

  #ramOf(at: bigint, bytes: bigint): Ram | undefined {
    for (const ram of this.#rams) {
      const { gpa: first, bytes: length } = ram.region;
      if (at >= first && at + bytes <= first + length) return ram;
    }
    return undefined;
  }

  #add<T extends Disposable>(region: MemoryRegion, map: () => T): { slot: T; added: Disposable } {
    using undo = new Scope();
    const begun = monotonicMs();
    const slot = undo.own(map());
    this.#regions.set(region, monotonicMs() - begun);
    undo.defer(() => this.#regions.delete(region));
    // Who follows the memory when the region is removed is not who did when it was added.
    undo.defer(() => this.#forget(region));
    for (const follower of this.#followers) follow(follower, region);
    this.#publish('added', region);
    undo.defer(() => this.#publish('removed', region));
    return { slot, added: undo.move() };
  }

  /** Reports the region removed to everybody who heard of it, last added first. A failure does not keep it from the others. */
  #forget(region: MemoryRegion): void {
    using scope = new Scope();
    for (const { heard } of this.#followers) scope.defer(() => heard.get(region)?.[Symbol.dispose]());
  }

  #publish(what: 'added' | 'removed', region: MemoryRegion): void {
    if (!trace.memory.hasSubscribers) return;
    const { name, gpa, hva, bytes } = region;
    trace.memory.publish({ what, name, gpa, hva, bytes, range: formatRange(gpa, bytes) });
  }

  /** Removes the remaining RAM, last added first. */
  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

import { formatRange, type Gpa, gpa, PAGE_SIZE } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { KvmGuest, KvmPageTrackNotifierNode } from '../../sys/kvm-guest.js';
import { disposable, Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import type { MemoryRegion } from '../../vfio/assign/index.js';
import type { ExitRam } from './exit-dispatcher.js';
import type { MemoryMap } from './memory-map.js';
import { runsOf } from './split-slot.js';

/** What {@link PageTrack} needs of the VM. */
export interface PageTrackPorts {
  /** Its RAM. */
  readonly memory: Pick<MemoryMap, 'listen' | 'ramAt' | 'ramRegion' | 'setReadonly'>;
  /** References to it, one for each listener. */
  readonly reference: { getUnlessDying(): boolean; put(): void };
  /**
   * Takes all processors out of the guest, until the result is disposed. Called by the machine thread, also while it
   * handles an exit; nested calls can come. A machine whose only processor is run by this thread has nothing to do.
   */
  readonly hold: () => Disposable;
}

/** How often pages of a range of RAM are tracked, by guest frame number. */
type Counts = Map<bigint, number>;

/**
 * The memory of a VM as vendor drivers use it, with tracking of writes as KVM's page_track does it for kvmgt. Real KVM
 * exports that to modules only, so pages are tracked by what user space has: they become slots with KVM_MEM_READONLY over
 * the same memory. A write exits as MMIO, {@link access} does it and tells the listeners, and then the processor goes on.
 * Reads do not exit. Machine thread only.
 *
 * Changing a slot takes it away for a moment. A processor that then read, wrote, fetched code or walked page tables there
 * would find no memory: a read or write would exit and could be done here, but KVM cannot emulate a fetch, and ends the
 * guest. So all processors are held out of the guest for the change. One of them may have exited before the change with a
 * write to a page that is tracked no more; that is done here, too, as to any RAM.
 */
export class PageTrack implements KvmGuest, ExitRam, Disposable {
  readonly #ports: PageTrackPorts;
  readonly #nodes = new Set<KvmPageTrackNotifierNode>();
  readonly #counts = new Map<MemoryRegion, Counts>();
  readonly #listening: Disposable;
  #wasUsed = false;
  #isDisposed = false;

  constructor(ports: PageTrackPorts) {
    this.#ports = ports;
    this.#listening = ports.memory.listen({ added: () => {}, removed: (region) => this.#forget(region) });
  }

  readGuest(at: Gpa, data: Uint8Array): void {
    data.set(this.#ram('kvm_read_guest', at, data.length));
  }

  writeGuest(at: Gpa, data: Uint8Array): void {
    this.#ram('kvm_write_guest', at, data.length).set(data);
  }

  isVisibleGfn(gfn: bigint): boolean {
    return this.#regionOf(gfn, 1n) !== undefined;
  }

  pageTrackRegisterNotifier(node: KvmPageTrackNotifierNode): void {
    const fail = (code: number, hint: string): never => {
      throw new SysError({
        call: 'kvm_page_track_register_notifier',
        target: node.name,
        errno: code,
        hint,
      });
    };
    if (this.#nodes.has(node)) fail(errno.EEXIST, 'it is registered');
    if (this.#isDisposed || !this.#ports.reference.getUnlessDying())
      fail(errno.ESRCH, 'the VM is being destroyed');
    this.#nodes.add(node);
  }

  pageTrackUnregisterNotifier(node: KvmPageTrackNotifierNode): void {
    if (this.#nodes.delete(node)) this.#ports.reference.put();
  }

  writeTrackAddGfn(gfn: bigint, pages = 1n): void {
    const region = pages > 0n ? this.#regionOf(gfn, pages) : undefined;
    if (region === undefined) {
      const target = `guest frames ${formatRange(gfn, pages)}`;
      const hint = 'they are not in one range of RAM';
      throw new SysError({ call: 'kvm_write_track_add_gfn', target, errno: errno.EINVAL, hint });
    }
    this.#wasUsed = true;
    const counts: Counts = new Map(this.#counts.get(region));
    for (const each of frames(gfn, pages)) counts.set(each, (counts.get(each) ?? 0) + 1);
    this.#apply(region, counts);
  }

  writeTrackRemoveGfn(gfn: bigint, pages = 1n): void {
    for (const [region, before] of [...this.#counts]) {
      const counts: Counts = new Map(before);
      let isChanged = false;
      for (const each of frames(gfn, pages)) {
        const count = counts.get(each);
        if (count === undefined) continue;
        isChanged = true;
        if (count > 1) counts.set(each, count - 1);
        else counts.delete(each);
      }
      if (isChanged) this.#apply(region, counts);
    }
  }

  /** Number of pages that are tracked. */
  get trackedPages(): number {
    let sum = 0;
    for (const counts of this.#counts.values()) sum += counts.size;
    return sum;
  }

  /**
   * The access of an exit, if it is one to RAM. A write is in memory before the listeners are told, in the order in which
   * they were registered.
   */
  access(address: number, data: Uint8Array, isWrite: boolean): boolean {
    if (!this.#wasUsed) return false;
    const at = BigInt(address);
    const ram = this.#ports.memory.ramAt(at, data.length);
    if (ram === undefined) return false;
    if (!isWrite) data.set(ram);
    else {
      ram.set(data);
      if (this.#isTracked(at / PAGE_SIZE)) this.#tell((node) => node.trackWrite(gpa(at), data));
    }
    return true;
  }

  #isTracked(gfn: bigint): boolean {
    for (const counts of this.#counts.values()) if (counts.has(gfn)) return true;
    return false;
  }

  #ram(call: string, at: Gpa, bytes: number): Uint8Array {
    const ram = this.#isDisposed ? undefined : this.#ports.memory.ramAt(at, bytes);
    if (ram !== undefined) return ram;
    const target = formatRange(at, BigInt(bytes));
    throw new SysError({ call, target, errno: errno.EFAULT, hint: 'not all of it is RAM of the VM' });
  }

  #regionOf(gfn: bigint, pages: bigint): MemoryRegion | undefined {
    return this.#isDisposed ? undefined : this.#ports.memory.ramRegion(gfn * PAGE_SIZE, pages * PAGE_SIZE);
  }

  /** Slots are touched only if a page begins or ends to be tracked. The counts change if that succeeds. */
  #apply(region: MemoryRegion, counts: Counts): void {
    const before = this.#counts.get(region);
    const isSame = counts.size === (before?.size ?? 0) && [...counts.keys()].every((gfn) => before?.has(gfn));
    if (!isSame) {
      const first = region.gpa / PAGE_SIZE;
      const runs = runsOf([...counts.keys()].map((gfn) => gfn - first));
      using _held = this.#ports.hold();
      this.#ports.memory.setReadonly(region, runs);
    }
    if (counts.size === 0) this.#counts.delete(region);
    else this.#counts.set(region, counts);
  }

  /** A listener may register and unregister any. One that is added meanwhile hears of the next event. */
  #tell(event: (node: KvmPageTrackNotifierNode) => void): void {
    for (const node of [...this.#nodes]) {
      if (!this.#nodes.has(node)) continue;
      try {
        event(node);
      } catch (error) {
        trace.vfio.publish({ what: 'track_write', device: node.name, text: `listener failed: ${error}` });
      }
    }
  }

  /** Its slots go with it. */
  #forget(region: MemoryRegion): void {
    if (region.kind !== 'ram') return;
    this.#counts.delete(region);
    this.#tell((node) => node.trackRemoveRegion(region.gpa / PAGE_SIZE, region.bytes / PAGE_SIZE));
  }

  /** The VM ends: listeners are told that its RAM goes, and never called again. Its memory must still be mapped. */
  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    using scope = new Scope();
    for (const node of this.#nodes) scope.defer(() => this.pageTrackUnregisterNotifier(node));
    scope.own(this.#listening); // which tells the listeners
    for (const region of this.#counts.keys()) scope.defer(() => this.#apply(region, new Map()));
  }
}

function* frames(gfn: bigint, pages: bigint): Iterable<bigint> {
  for (let each = gfn; each < gfn + pages; each++) yield each;
}

/** For a machine that runs its only processor in the thread that changes its memory: there is nothing to hold. */
export const holdNothing = (): Disposable => disposable(() => {});

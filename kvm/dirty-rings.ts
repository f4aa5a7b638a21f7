/** KVM's dirty rings: for each vCPU, a list of the pages that its guest wrote, in memory that KVM shares. */
import { PAGE_SIZE } from '../sys/address.js';
import { errno } from '../sys/errno.js';
import { isErrno, SysError } from '../sys/error.js';
import type { Fd } from '../sys/fd.js';
import { ioctl } from '../sys/ioctl.js';
import { Mapping, type MemoryView } from '../sys/mapping.js';
import { disposable, Scope } from '../sys/scope.js';
import { uninterrupted } from './retries.js';
import {
  DirtyGfn,
  KVM_DIRTY_GFN_F_DIRTY,
  KVM_DIRTY_GFN_F_RESET,
  KVM_DIRTY_LOG_PAGE_OFFSET,
  KVM_ENABLE_CAP,
  KVM_RESET_DIRTY_RINGS,
} from './uapi.js';
import type { Vm } from './vm.js';

const WORD = 4;
const ENTRY_WORDS = DirtyGfn.size / WORD;
const FLAGS = DirtyGfn.offsets.flags / WORD;
const SLOT = DirtyGfn.offsets.slot / WORD;
const OFFSET = DirtyGfn.offsets.offset / WORD;

/** One vCPU's ring, as its reader sees it. */
class DirtyRing {
  readonly #words: Uint32Array;
  /** Word of the entry that KVM fills next, as far as is known. KVM resets entries in order, so none is left out. */
  #at = 0;

  constructor(view: MemoryView) {
    const { buffer, byteOffset, length } = view.slice(0, view.bytes);
    this.#words = new Uint32Array(buffer, byteOffset, length / WORD);
  }

  /**
   * Passes on the entries that KVM has filled, and hands them back. Its vCPU may run meanwhile: KVM fills no entry again
   * before it is reset, so the loop ends after one turn of the ring.
   * @returns how many
   */
  harvest(take: (slot: number, page: number) => void): number {
    const words = this.#words;
    for (let count = 0; ; count++) {
      const at = this.#at;
      // Read with acquire and written with release, against KVM's own.
      if ((Atomics.load(words, at + FLAGS) & KVM_DIRTY_GFN_F_DIRTY) === 0) return count;
      const page = (words[at + OFFSET] as number) + (words[at + OFFSET + 1] as number) * 2 ** 32;
      take(words[at + SLOT] as number, page);
      Atomics.store(words, at + FLAGS, KVM_DIRTY_GFN_F_RESET);
      this.#at = (at + ENTRY_WORDS) % words.length;
    }
  }
}

/** The rings of a VM's vCPUs, and what was read from them: a bitmap for each slot that logs. Machine thread. */
export class DirtyRings {
  /** Length of each ring. */
  readonly #bytes: number;
  readonly #reset: () => void;
  readonly #rings = new Set<DirtyRing>();
  readonly #bitmaps = new Map<number, Uint8Array<ArrayBuffer>>();

  /** @param reset makes KVM log the pages of harvested entries again (KVM_RESET_DIRTY_RINGS) */
  constructor(bytes: number, reset: () => void) {
    this.#bytes = bytes;
    this.#reset = reset;
  }

  /** Has KVM make a ring for each vCPU to come. @throws as {@link Vm.enableDirtyRings} */
  static enable(vm: Pick<Vm, 'fd' | 'checkExtension' | 'enableCap'>, entries: number): DirtyRings {
    const cap = 'KVM_CAP_DIRTY_LOG_RING';
    const most = vm.checkExtension(cap) / DirtyGfn.size;
    const target = `${vm.fd.target}, ${cap}`;
    const refused = (code: number, hint: string) =>
      new SysError({ call: KVM_ENABLE_CAP.name, target, errno: code, hint });
    if (most === 0) throw refused(errno.ENOTSUP, `this kernel’s KVM lacks ${cap}`);
    if (entries > most) throw refused(errno.E2BIG, `a ring has ${most} entries at most`);
    const bytes = entries * DirtyGfn.size;
    try {
      vm.enableCap(cap, BigInt(bytes));
    } catch (error) {
      if (!isErrno(error, 'EINVAL')) throw error;
      throw refused(
        errno.EINVAL,
        'the number of entries is a power of two, 1024 or more; no vCPU may exist yet',
      );
    }
    return new DirtyRings(bytes, () => {
      uninterrupted(() => ioctl(vm.fd, KVM_RESET_DIRTY_RINGS));
    });
  }

  /** Maps a vCPU's ring, and adds it, until the result is disposed. */
  map(vcpu: Fd): Disposable {
    using scope = new Scope();
    const place = {
      offset: KVM_DIRTY_LOG_PAGE_OFFSET * Number(PAGE_SIZE),
      target: `${vcpu.target}, dirty ring`,
    };
    const mapping = scope.own(Mapping.file(vcpu, this.#bytes, place));
    scope.own(this.add(mapping.view));
    return scope.move();
  }

  /** Adds a vCPU's ring, until the result is disposed. @param view stays mapped until then */
  add(view: MemoryView): Disposable {
    const ring = new DirtyRing(view);
    this.#rings.add(ring);
    return disposable(() => this.#rings.delete(ring));
  }

  /** Begins to collect pages of a slot, unless it is collected already. @param bitmap zeroed; bit n is page n */
  track(slot: number, bitmap: Uint8Array<ArrayBuffer>): void {
    if (!this.#bitmaps.has(slot)) this.#bitmaps.set(slot, bitmap);
  }

  /** Drops what is known of a slot that logs no more, also in the rings: its number may be another's next. */
  untrack(slot: number): void {
    if (!this.#bitmaps.has(slot)) return;
    this.harvest();
    this.#bitmaps.delete(slot);
  }

  /**
   * Empties all rings. A page that the guest writes from then on is logged again, so its content must be read after this.
   * Entries of slots that are gone are dropped.
   */
  harvest(): void {
    let count = 0;
    for (const ring of this.#rings)
      count += ring.harvest((slot, page) => {
        const bitmap = this.#bitmaps.get(slot);
        const at = Math.floor(page / 8);
        if (bitmap !== undefined && at < bitmap.length)
          bitmap[at] = (bitmap[at] as number) | (1 << (page % 8));
      });
    if (count > 0) this.#reset();
  }

  /** Empties all rings. Returns the pages of a slot since the last call; undefined if it does not log. */
  take(slot: number): Uint8Array | undefined {
    this.harvest();
    const bitmap = this.#bitmaps.get(slot);
    if (bitmap !== undefined) this.#bitmaps.set(slot, new Uint8Array(bitmap.length));
    return bitmap;
  }
}

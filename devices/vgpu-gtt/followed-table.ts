import { type Gpa, PAGE_SIZE } from '../../sys/address.js';
import { SysError } from '../../sys/error.js';
import type { KvmGuest, KvmPageTrackNotifierNode } from '../../sys/kvm-guest.js';
import type { KvmPointer } from '../../vfio/driver.js';
import { ShadowTable, type TableAt } from './shadow-table.js';
import { MOST_ENTRIES } from './spec.js';

/**
 * The table of a card in the VM that the card is associated with: it follows the guest's writes from {@link enable} to
 * {@link disable}, and from one VM to the next. It holds the pointer of one VM at a time, and after {@link follow} of another
 * or of none, neither calls the old one nor is called by it. Nothing that a guest does makes it throw.
 */
export class FollowedTable {
  readonly #node: KvmPageTrackNotifierNode;
  #kvm: KvmPointer | undefined;
  #guest: KvmGuest | undefined;
  #wanted: TableAt | undefined;
  #shadow: ShadowTable | undefined;
  #updates = 0;

  /** @param name of the device, for messages */
  constructor(name: string) {
    this.#node = {
      name,
      trackWrite: (at, data) => this.#written(at, data.length),
      trackRemoveRegion: (gfn, pages) => this.#removed(gfn, pages),
    };
  }

  /** Whether there is a VM whose memory can be used. */
  get hasGuest(): boolean {
    return this.#guest !== undefined;
  }

  /** The table; undefined while it is disabled, or was refused. */
  get shadow(): ShadowTable | undefined {
    return this.#shadow;
  }

  /** Entries taken over from writes. */
  get updates(): number {
    return this.#updates;
  }

  /** The VM to use from now on; undefined for none. */
  follow(kvm: KvmPointer | undefined): void {
    if (kvm === this.#kvm) return;
    this.#leave();
    this.#kvm = kvm;
    const guest = kvm?.guest;
    if (guest === undefined) return;
    try {
      guest.pageTrackRegisterNotifier(this.#node); // which takes the reference that the pointer needs
    } catch (error) {
      if (error instanceof SysError) return; // the VM is being destroyed
      throw error;
    }
    this.#guest = guest;
    this.#track();
  }

  /** Begins to use a table. One that is not all RAM is refused: there is no shadow then. */
  enable(at: TableAt): void {
    this.disable();
    this.#wanted = at;
    this.#track();
  }

  disable(): void {
    this.#untrack();
    this.#wanted = undefined;
  }

  /** As after a reset; the VM stays. */
  reset(): void {
    this.disable();
    this.#updates = 0;
  }

  #leave(): void {
    this.#untrack();
    const guest = this.#guest;
    this.#guest = undefined;
    guest?.pageTrackUnregisterNotifier(this.#node);
  }

  #track(): void {
    const [guest, at] = [this.#guest, this.#wanted];
    if (guest === undefined || at === undefined) return;
    if (at.entries < 1 || at.entries > MOST_ENTRIES || at.base % PAGE_SIZE !== 0n) return;
    const shadow = new ShadowTable(guest, at);
    const { gfn, pages } = shadow.frames;
    try {
      // Tracked before it is read: a write in between is heard of, and the entry read again.
      guest.writeTrackAddGfn(gfn, pages);
    } catch (error) {
      if (error instanceof SysError) return;
      throw error;
    }
    this.#shadow = shadow;
    this.#read(at.base, shadow.bytes);
  }

  #untrack(): void {
    const shadow = this.#shadow;
    this.#shadow = undefined;
    if (shadow !== undefined) this.#guest?.writeTrackRemoveGfn(shadow.frames.gfn, shadow.frames.pages);
  }

  #written(at: Gpa, bytes: number): void {
    this.#updates += this.#read(at, bytes);
  }

  #read(at: Gpa, bytes: number): number {
    try {
      return this.#shadow?.update(at, bytes) ?? 0;
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.#untrack(); // its memory is gone
      return 0;
    }
  }

  /** A table in it is gone; pages of pictures in it are found missing when they are read. */
  #removed(gfn: bigint, pages: bigint): void {
    const table = this.#shadow?.frames;
    if (table !== undefined && table.gfn < gfn + pages && gfn < table.gfn + table.pages)
      this.#shadow = undefined;
  }
}

/** What a virtual machine offers to those who hold a pointer to it. kvm/ and vfio/ share it: neither imports the other. */
import type { Gpa } from './address.js';

/**
 * Hears of the guest's writes to tracked pages: struct kvm_page_track_notifier_node. Called in the machine thread. It may
 * call {@link KvmGuest}, also to unregister itself; what it throws is reported, and does not reach the guest.
 */
export interface KvmPageTrackNotifierNode {
  /** Name for messages. */
  readonly name: string;
  /**
   * The guest wrote `data` to a tracked page. It is in memory already, and the processor that wrote waits until the return.
   * @param at first byte that was written; the write does not cross a page
   * @param data valid during the call
   */
  trackWrite(at: Gpa, data: Uint8Array): void;
  /**
   * RAM was removed from the guest, with whatever was tracked in it: its pages are tracked no more, and must not be removed.
   * @param gfn first guest frame number
   * @param pages length of the range in pages
   */
  trackRemoveRegion(gfn: bigint, pages: bigint): void;
}

/**
 * A VM's memory as its kernel offers it to vendor drivers (kvmgt is the one in Linux): access by guest physical address,
 * and tracking of the guest's writes. Machine thread only. Valid while the VM is; a holder takes a reference to the VM
 * first. After the VM's end there is no memory (EFAULT), and no listener is called.
 */
export interface KvmGuest {
  /**
   * kvm_read_guest: fills `data` from guest RAM.
   * @throws SysError EFAULT if part of the range is not RAM; `data` is then unchanged
   */
  readGuest(at: Gpa, data: Uint8Array): void;
  /**
   * kvm_write_guest: copies `data` into guest RAM. Listeners are not called: they hear of the guest's own writes only.
   * @throws SysError EFAULT if part of the range is not RAM; nothing is written then
   */
  writeGuest(at: Gpa, data: Uint8Array): void;
  /** Whether a guest frame number is RAM: not a gap, nor a device. @see kvm_is_visible_gfn */
  isVisibleGfn(gfn: bigint): boolean;
  /**
   * kvm_page_track_register_notifier: calls `node` for each write to any tracked page, until it is unregistered or the VM
   * ends. Holds a reference to the VM until then.
   * @throws SysError ESRCH if the VM is being destroyed; EEXIST if it is registered
   */
  pageTrackRegisterNotifier(node: KvmPageTrackNotifierNode): void;
  /**
   * kvm_page_track_unregister_notifier: `node` is not called any more, not even for the write that listeners are being told of.
   * Pages that it tracks stay tracked. Does nothing if it is not registered.
   */
  pageTrackUnregisterNotifier(node: KvmPageTrackNotifierNode): void;
  /**
   * kvm_write_track_add_gfn: tracks writes to pages. Counted per page: each is tracked until it is removed as often. Stops
   * the processors for the change, which then costs them their second-level page tables: track many pages in one call.
   *
   * Writes by devices (DMA) and by {@link writeGuest} are not tracked. An instruction that writes to a tracked page has to
   * be one that KVM emulates: moves, arithmetic, string instructions; an atomic one is done as a plain write. One that KVM
   * does not emulate ends the guest, as does an interrupt whose stack lies in a tracked page.
   * @param pages from `gfn` on; 1 if absent
   * @throws SysError EINVAL if a page is not RAM, or they do not lie in one range of it; any error of
   *   KVM_SET_USER_MEMORY_REGION, with nothing changed
   */
  writeTrackAddGfn(gfn: bigint, pages?: bigint): void;
  /**
   * kvm_write_track_remove_gfn: undoes one {@link writeTrackAddGfn} of each page. Pages that are not tracked are ignored, as
   * they are once their RAM was removed.
   */
  writeTrackRemoveGfn(gfn: bigint, pages?: bigint): void;
}

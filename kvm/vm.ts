import { type Gpa, type Hva, PAGE_SIZE } from '../sys/address.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Fd } from '../sys/fd.js';
import { ioctl } from '../sys/ioctl.js';
import type { DoorChoice, IoctlDoor } from '../sys/ioctl-door.js';
import type { KvmGuest } from '../sys/kvm-guest.js';
import { withAddress } from '../sys/libc.js';
import { Mapping } from '../sys/mapping.js';
import { disposable, Scope } from '../sys/scope.js';
import { type Cap, caps } from './caps.js';
import { KvmDevice } from './device.js';
import { DirtyRings } from './dirty-rings.js';
import { bindIoeventfd, bindIrqfd, type IoeventfdOptions, type IrqfdOptions } from './eventfd-bindings.js';
import { CountedReference, type KvmReference } from './reference.js';
import * as uapi from './uapi.js';
import { Xsave } from './uapi-vcpu.js';
import { Vcpu } from './vcpu.js';

/** Arguments of `KVM_SET_USER_MEMORY_REGION`. */
export interface UserMemoryRegion {
  /** Number of the memory slot, below KVM_CAP_NR_MEMSLOTS; bits 16 to 31 select the address space. */
  readonly slot: number;
  /** KVM_MEM_… bits. */
  readonly flags: number;
  /** First byte as the guest addresses it, page-aligned. */
  readonly gpa: Gpa;
  /** Size in bytes; 0 deletes the slot. */
  readonly bytes: bigint;
  /** First byte in this process, page-aligned; stays mapped until the slot is deleted. */
  readonly hva: Hva;
}

/** A message-signalled interrupt: address and data as PCI functions and local APICs use them. */
export interface MsiMessage {
  /** Message address; bits 12 to 19 hold the destination APIC id. */
  readonly address: bigint;
  /** Message data; bits 0 to 7 hold the vector. */
  readonly data: number;
}

/** The VM fd: memory slots, interrupts, clock and vCPUs. Owns the descriptor. Machine thread. */
export class Vm implements Disposable {
  /** The VM's descriptor. It closes with the last reference, not with dispose. */
  readonly fd: Fd;
  readonly #reference: CountedReference;
  readonly #vcpuMmapSize: number;
  #kvmVfio: Disposable | undefined;
  #assigned = 0;
  #noncoherent = 0;
  #isDisposed = false;
  #dirtyRings: DirtyRings | undefined;

  private constructor(fd: Fd, vcpuMmapSize: number) {
    this.fd = fd;
    this.#vcpuMmapSize = vcpuMmapSize;
    this.#reference = new CountedReference(() => fd[Symbol.dispose]());
  }

  /** Takes ownership of a VM descriptor. @param vcpuMmapSize {@link Kvm.getVcpuMmapSize} */
  static adopt(fd: Fd, vcpuMmapSize: number): Vm {
    return new Vm(fd, vcpuMmapSize);
  }

  /** The reference that VFIO files hold. The descriptor closes when the owner and every holder have dropped theirs. */
  get reference(): KvmReference {
    return this.#reference;
  }

  /**
   * Offers the VM's memory to the holders of {@link reference}, until the result is disposed.
   * @throws SysError EBUSY if it is offered already
   */
  offerGuest(guest: KvmGuest): Disposable {
    if (this.#reference.guest !== undefined) {
      const hint = 'the memory of a VM is offered once';
      throw new SysError({ call: 'offerGuest', target: this.fd.target, errno: errno.EBUSY, hint });
    }
    this.#reference.guest = guest;
    return disposable(() => {
      this.#reference.guest = undefined;
    });
  }

  /** False once the owner has disposed the VM, even if a reference keeps the descriptor open. */
  get isOpen(): boolean {
    return !this.#isDisposed;
  }

  /** Returns 0 if the capability is missing; otherwise 1, or a value defined by the capability. */
  checkExtension(cap: Cap): number {
    return ioctl(this.fd, uapi.KVM_CHECK_EXTENSION, caps[cap]);
  }

  /** @throws SysError EINVAL if the VM cannot enable this capability, or rejects these arguments */
  enableCap(cap: Cap, ...args: readonly bigint[]): void {
    const bytes = uapi.EnableCap.encode({ cap: caps[cap], args: [...args] });
    ioctl(this.fd, uapi.KVM_ENABLE_CAP, bytes, `${this.fd.target}, ${cap}`);
  }

  /**
   * Creates a vCPU. With in-kernel local APICs, `id` is its APIC id, and every vCPU but 0 waits for INIT and SIPI.
   * @param door calls KVM_RUN, by default through the fastest FFI library that works here; see {@link VcpuRunner.of}
   * @throws SysError EEXIST if the id is in use; EINVAL past KVM_CAP_MAX_VCPU_ID or KVM_CAP_MAX_VCPUS; as
   *   {@link openDoor} for a library that is asked for by name
   */
  createVcpu(id: number, door?: DoorChoice | IoctlDoor): Vcpu {
    using scope = new Scope();
    const target = `vcpu ${id}`;
    const fd = scope.own(Fd.adopt(ioctl(this.fd, uapi.KVM_CREATE_VCPU, id, target), target));
    const mapping = scope.own(Mapping.file(fd, this.#vcpuMmapSize, { isSeenByThreads: true }));
    const xsaveBytes = Math.max(this.checkExtension('KVM_CAP_XSAVE2'), Xsave.size);
    const dirtyRing = this.#dirtyRings && scope.own(this.#dirtyRings.map(fd));
    const vcpu = Vcpu.adopt({ fd, mapping, xsaveBytes, door, dirtyRing });
    scope.move();
    return vcpu;
  }

  // --- memory ---

  /**
   * Creates, changes or deletes a slot; {@link MemorySlots} allocates slot numbers.
   * @throws SysError EEXIST if the range overlaps another slot; EINVAL for a misaligned range, or for changing the
   *   size, host address or read-only flag of a slot
   */
  setUserMemoryRegion(region: UserMemoryRegion): void {
    const bytes = uapi.UserspaceMemoryRegion.encode({
      slot: region.slot,
      flags: region.flags,
      guest_phys_addr: region.gpa,
      memory_size: region.bytes,
      userspace_addr: region.hva,
    });
    ioctl(this.fd, uapi.KVM_SET_USER_MEMORY_REGION, bytes, `${this.fd.target}, slot ${region.slot}`);
    const isLogged = region.bytes > 0n && (region.flags & uapi.KVM_MEM_LOG_DIRTY_PAGES) !== 0;
    if (isLogged) this.#dirtyRings?.track(region.slot, bitmapFor(region.bytes / PAGE_SIZE));
    else this.#dirtyRings?.untrack(region.slot);
  }

  /**
   * Makes KVM list the pages that each vCPU writes in a ring of its own, in place of a bitmap for each slot. {@link
   * getDirtyLog} works as before; {@link clearDirtyLog} does not. What the kernel itself writes without a vCPU is in no
   * ring. Before the first slot and the first vCPU, and once.
   * @param entries of each vCPU's ring, 16 bytes each: a power of two, 1024 or more
   * @throws SysError ENOTSUP if KVM has no rings (Linux 5.11 has); E2BIG past what it has room for; EINVAL for a number
   *   that is no power of two, or less than KVM reserves
   */
  enableDirtyRings(entries: number): void {
    this.#dirtyRings = DirtyRings.enable(this, entries);
  }

  /** Makes room in all dirty rings; no page is lost. Does nothing without rings. vCPUs may run. */
  harvestDirtyRings(): void {
    this.#dirtyRings?.harvest();
  }

  /**
   * Pages of a slot written since the last call: bit n is page n. Also write-protects them again, unless
   * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 leaves that to {@link clearDirtyLog}. With {@link enableDirtyRings}, a vCPU that
   * runs may have written pages that the processor has not reported yet: they are in the first log after its next exit.
   * @param bytes the slot's size
   * @throws SysError ENOENT if the slot does not log dirty pages
   */
  getDirtyLog(slot: number, bytes: bigint): Uint8Array {
    const target = `${this.fd.target}, slot ${slot}`;
    if (this.#dirtyRings !== undefined) {
      const taken = this.#dirtyRings.take(slot);
      if (taken !== undefined) return taken;
      const { ENOENT: hint } = uapi.KVM_GET_DIRTY_LOG.hints;
      throw new SysError({ call: 'getDirtyLog', target, errno: errno.ENOENT, hint });
    }
    const bitmap = bitmapFor(bytes / PAGE_SIZE);
    withAddress(bitmap, (address) => {
      const bytes = uapi.DirtyLog.encode({ slot, dirty_bitmap: BigInt(address) });
      ioctl(this.fd, uapi.KVM_GET_DIRTY_LOG, bytes, target);
    });
    return bitmap;
  }

  /**
   * Clears the dirty pages named by `bitmap` and write-protects them again. Bit 0 is `firstPage`.
   * @param firstPage a multiple of 64
   * @param pages a multiple of 64, unless the range ends with the slot
   * @throws SysError EINVAL for a misaligned range, or if KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is not enabled
   */
  clearDirtyLog(slot: number, firstPage: bigint, pages: number, bitmap: Uint8Array): void {
    const copy = bitmapFor(BigInt(pages));
    copy.set(bitmap.subarray(0, bitmapBytes(BigInt(pages))));
    withAddress(copy, (address) => {
      const bytes = uapi.ClearDirtyLog.encode({
        slot,
        num_pages: pages,
        first_page: firstPage,
        dirty_bitmap: BigInt(address),
      });
      ioctl(this.fd, uapi.KVM_CLEAR_DIRTY_LOG, bytes, `${this.fd.target}, slot ${slot}`);
    });
  }

  /**
   * Sets the address of three pages that Intel processors need for real mode. Outside all slots; before the first vCPU.
   */
  setTssAddr(address: Gpa): void {
    ioctl(this.fd, uapi.KVM_SET_TSS_ADDR, Number(address));
  }

  /**
   * Sets the address of one page that Intel processors need for real mode. Outside all slots; before the first vCPU.
   */
  setIdentityMapAddr(address: Gpa): void {
    const bytes = new Uint8Array(new BigUint64Array([address]).buffer);
    ioctl(this.fd, uapi.KVM_SET_IDENTITY_MAP_ADDR, bytes);
  }

  // --- interrupt controllers ---

  /** Creates in-kernel PICs, IOAPIC and local APICs. Before the first vCPU. @throws SysError EEXIST */
  createIrqchip(): void {
    ioctl(this.fd, uapi.KVM_CREATE_IRQCHIP);
  }

  /**
   * Creates in-kernel local APICs only; the VMM emulates PIC and IOAPIC. Before the first vCPU.
   * @param ioapicPins number of GSIs, from 0, that belong to the VMM's IOAPIC: their EOIs become `ioapic-eoi` exits
   * @throws SysError EEXIST
   */
  enableSplitIrqchip(ioapicPins = uapi.KVM_IOAPIC_NUM_PINS): void {
    this.enableCap('KVM_CAP_SPLIT_IRQCHIP', BigInt(ioapicPins));
  }

  /** State of the in-kernel IOAPIC. @throws SysError ENXIO without an in-kernel irqchip */
  getIoapic(): uapi.IoapicState {
    return uapi.IoapicState.decode(this.#getIrqchip(uapi.KVM_IRQCHIP_IOAPIC));
  }

  /** Sets the state of the in-kernel IOAPIC. @throws SysError ENXIO without an in-kernel irqchip */
  setIoapic(state: uapi.IoapicState): void {
    this.#setIrqchip(uapi.KVM_IRQCHIP_IOAPIC, uapi.IoapicState.encode(state));
  }

  /**
   * State of one in-kernel PIC.
   * @param chip_id KVM_IRQCHIP_PIC_MASTER or _SLAVE
   * @throws SysError ENXIO without an in-kernel irqchip
   */
  getPic(chip_id: 0 | 1): uapi.PicState {
    return uapi.PicState.decode(this.#getIrqchip(chip_id));
  }

  /**
   * Sets the state of one in-kernel PIC.
   * @param chip_id KVM_IRQCHIP_PIC_MASTER or _SLAVE
   * @throws SysError ENXIO without an in-kernel irqchip
   */
  setPic(chip_id: 0 | 1, state: uapi.PicState): void {
    this.#setIrqchip(chip_id, uapi.PicState.encode(state));
  }

  #getIrqchip(chip_id: number): Uint8Array {
    const bytes = uapi.Irqchip.encode({ chip_id });
    ioctl(this.fd, uapi.KVM_GET_IRQCHIP, bytes);
    return bytes.subarray(uapi.Irqchip.offsets.chip);
  }

  #setIrqchip(chip_id: number, chip: Uint8Array): void {
    ioctl(this.fd, uapi.KVM_SET_IRQCHIP, uapi.Irqchip.encode({ chip_id, chip }));
  }

  /**
   * Creates the interval timer. @param flags KVM_PIT_… bits @throws SysError EEXIST; ENOENT without the full irqchip
   */
  createPit2(flags = uapi.KVM_PIT_SPEAKER_DUMMY): void {
    ioctl(this.fd, uapi.KVM_CREATE_PIT2, uapi.PitConfig.encode({ flags }));
  }

  /** State of the in-kernel interval timer. @throws SysError ENXIO before {@link createPit2} */
  getPit2(): uapi.PitState2 {
    const bytes = uapi.PitState2.encode();
    ioctl(this.fd, uapi.KVM_GET_PIT2, bytes);
    return uapi.PitState2.decode(bytes);
  }

  /** Sets the state of the in-kernel interval timer. @throws SysError ENXIO before {@link createPit2} */
  setPit2(state: uapi.PitState2): void {
    ioctl(this.fd, uapi.KVM_SET_PIT2, uapi.PitState2.encode(state));
  }

  // --- interrupts ---

  /**
   * Sets the level of a line. An edge-triggered pin needs a raise and a lower. @throws SysError ENXIO without an IOAPIC
   */
  irqLine(gsi: number, isHigh: boolean): void {
    ioctl(this.fd, uapi.KVM_IRQ_LINE, uapi.IrqLevel.encode({ irq: gsi, level: isHigh ? 1 : 0 }));
  }

  /**
   * Sends an MSI without a route. Returns false if the guest blocks it.
   * @throws SysError EINVAL without in-kernel local APICs
   */
  signalMsi({ address, data }: MsiMessage): boolean {
    const address_lo = Number(address & 0xffff_ffffn);
    const address_hi = Number(address >> 32n);
    return ioctl(this.fd, uapi.KVM_SIGNAL_MSI, uapi.Msi.encode({ address_lo, address_hi, data })) > 0;
  }

  /**
   * Replaces the whole table; {@link GsiRouting} maintains it. @param entries encoded `struct kvm_irq_routing_entry`
   */
  setGsiRouting(entries: readonly Uint8Array[]): void {
    const { size } = uapi.IrqRoutingEntry;
    const bytes = uapi.IrqRouting.encode({ nr: entries.length }, entries.length * size);
    entries.forEach((entry, i) => {
      bytes.set(entry, uapi.IrqRouting.size + i * size);
    });
    ioctl(this.fd, uapi.KVM_SET_GSI_ROUTING, bytes);
  }

  /**
   * Binds an eventfd to a GSI: a signal injects the interrupt in the kernel, without an exit or a thread of this
   * process. The GSI's route may change later. Dispose the binding before the eventfd.
   * @throws SysError EBUSY if the eventfd is bound already; EINVAL if it is not an eventfd, or the VM has no irqchip
   * @see KVM_IRQFD
   */
  assignIrqfd(options: IrqfdOptions): Disposable {
    return bindIrqfd(this.fd, options);
  }

  /**
   * Makes a guest write signal an eventfd instead of exiting. Dispose the binding before the eventfd.
   * @throws SysError EEXIST if the address is bound already with this value or with any; ENOSPC if the VM's I/O bus is
   *   full; EINVAL for an invalid length
   * @see KVM_IOEVENTFD
   */
  assignIoeventfd(options: IoeventfdOptions): Disposable {
    return bindIoeventfd(this.fd, options);
  }

  // --- clock ---

  /** kvmclock in ns, and the host clocks it was sampled with. */
  getClock(): uapi.ClockData {
    const bytes = uapi.ClockData.encode();
    ioctl(this.fd, uapi.KVM_GET_CLOCK, bytes);
    return uapi.ClockData.decode(bytes);
  }

  /**
   * With KVM_CLOCK_REALTIME in `flags`, KVM adds the time elapsed since `realtime`. @throws SysError EINVAL
   */
  setClock(clock: Partial<uapi.ClockData>): void {
    ioctl(this.fd, uapi.KVM_SET_CLOCK, uapi.ClockData.encode(clock));
  }

  // --- devices ---

  /**
   * Creates an in-kernel device.
   * @param type KVM_DEV_TYPE_…
   * @throws SysError ENODEV if the kernel lacks it; EBUSY for a second kvm-vfio
   */
  createDevice(type: number): KvmDevice {
    return KvmDevice.create(this.fd, type);
  }

  /** Whether the kernel has the device type. */
  hasDevice(type: number): boolean {
    return KvmDevice.isSupported(this.fd, type);
  }

  /**
   * Registers `device` as the VM's only kvm-vfio device; the VM disposes it.
   * @returns unregisters it
   * @throws SysError EBUSY if the VM has one
   */
  attachKvmVfio(device: Disposable): Disposable {
    if (this.#kvmVfio !== undefined) {
      const { name: call, hints } = uapi.KVM_CREATE_DEVICE;
      throw new SysError({ call, target: this.fd.target, errno: errno.EBUSY, hint: hints.EBUSY });
    }
    this.#kvmVfio = device;
    return disposable(() => {
      this.#kvmVfio = undefined;
    });
  }

  /** Counts a VFIO file of this process that is associated with the VM. Balanced by {@link endAssignment}. */
  startAssignment(): void {
    this.#assigned++;
  }

  /** @throws RangeError without a {@link startAssignment} to balance */
  endAssignment(): void {
    if (this.#assigned === 0) throw new RangeError('no device is assigned');
    this.#assigned--;
  }

  /** Whether a VFIO file of this process is associated with the VM. */
  get hasAssignedDevice(): boolean {
    return this.#assigned > 0;
  }

  /** Counts an assigned device whose DMA does not snoop caches. Balanced by {@link unregisterNoncoherentDma}. */
  registerNoncoherentDma(): void {
    this.#noncoherent++;
  }

  /** @throws RangeError without a {@link registerNoncoherentDma} to balance */
  unregisterNoncoherentDma(): void {
    if (this.#noncoherent === 0) throw new RangeError('no non-coherent DMA is registered');
    this.#noncoherent--;
  }

  /** Whether the guest's cache control (WBINVD, memory types) must be honoured for a device of this process. */
  get hasNoncoherentDma(): boolean {
    return this.#noncoherent > 0;
  }

  /** Releases VFIO files first, then drops the owner's reference. */
  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    try {
      this.#kvmVfio?.[Symbol.dispose]();
    } finally {
      this.#isDisposed = true;
      this.#reference.put();
    }
  }
}

/** KVM writes whole 64-bit words. */
const bitmapBytes = (pages: bigint): number => Number((pages + 63n) / 64n) * 8;
const bitmapFor = (pages: bigint): Uint8Array<ArrayBuffer> => new Uint8Array(bitmapBytes(pages));

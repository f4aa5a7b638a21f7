import { type Gpa, type Hva, PAGE_SIZE } from '../sys/address.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Fd } from '../sys/fd.js';
import { ioctl } from '../sys/ioctl.js';
import { addressOf, type HotDoor } from '../sys/libc.js';
import { Mapping } from '../sys/mapping.js';
import { disposable, Scope } from '../sys/scope.js';
import { type Cap, caps } from './caps.js';
import { KvmDevice } from './device.js';
import { CountedReference, type KvmReference } from './reference.js';
import * as uapi from './uapi.js';
import { Xsave } from './uapi-vcpu.js';
import { Vcpu } from './vcpu.js';

/** What `KVM_SET_USER_MEMORY_REGION` takes. */
export interface UserMemoryRegion {
  readonly slot: number;
  /** KVM_MEM_ bits. */
  readonly flags: number;
  readonly gpa: Gpa;
  /** 0 deletes the slot. */
  readonly bytes: bigint;
  readonly hva: Hva;
}

/** A message-signalled interrupt, as PCI and the local APIC have it. */
export interface MsiMessage {
  readonly address: bigint;
  readonly data: number;
}

/** An eventfd that raises an interrupt. */
export interface IrqfdOptions {
  readonly fd: Fd;
  readonly gsi: number;
  /** Makes it level-triggered: the line stays up until the guest's EOI, which lowers it and signals this eventfd. */
  readonly resampleFd?: Fd | undefined;
}

/** A guest write that signals an eventfd instead of making an exit. */
export interface IoeventfdOptions {
  readonly fd: Fd;
  /** Guest physical address, or port if `isPio`. */
  readonly address: bigint;
  /** Bytes that the guest writes: 1, 2, 4 or 8; 0 is any. */
  readonly length: 0 | 1 | 2 | 4 | 8;
  /** Only writes of this value; others exit. Not with length 0. */
  readonly datamatch?: bigint | undefined;
  readonly isPio?: boolean | undefined;
}

/** A virtual machine: memory slots, interrupts, and what it owns in the kernel. Machine thread. */
export class Vm implements Disposable {
  readonly fd: Fd;
  readonly #reference: CountedReference;
  readonly #vcpuMmapSize: number;
  #kvmVfio: Disposable | undefined;
  #assigned = 0;
  #noncoherent = 0;
  #isDisposed = false;

  private constructor(fd: Fd, vcpuMmapSize: number) {
    this.fd = fd;
    this.#vcpuMmapSize = vcpuMmapSize;
    this.#reference = new CountedReference(() => fd[Symbol.dispose]());
  }

  /** Takes over a VM's descriptor. @param vcpuMmapSize {@link Kvm.getVcpuMmapSize} */
  static adopt(fd: Fd, vcpuMmapSize: number): Vm {
    return new Vm(fd, vcpuMmapSize);
  }

  /** What VFIO files keep of this VM. The descriptor is open until the owner and every holder have let go. */
  get reference(): KvmReference {
    return this.#reference;
  }

  /** False once the owner has disposed it, though a reference may keep the descriptor open. */
  get isOpen(): boolean {
    return !this.#isDisposed;
  }

  /** 0 if the capability is missing; else 1 or a number whose meaning depends on the capability. */
  checkExtension(cap: Cap): number {
    return ioctl(this.fd, uapi.KVM_CHECK_EXTENSION, caps[cap]);
  }

  /** @throws SysError EINVAL for a capability that a VM cannot enable, or with these arguments */
  enableCap(cap: Cap, ...args: readonly bigint[]): void {
    const bytes = uapi.EnableCap.encode({ cap: caps[cap], args: [...args] });
    ioctl(this.fd, uapi.KVM_ENABLE_CAP, bytes, `${this.fd.target}, ${cap}`);
  }

  /**
   * Makes a processor. With in-kernel APICs, `id` is its APIC id, and all but 0 wait for INIT and SIPI.
   * @param door the way into the kernel for KVM_RUN
   * @throws SysError EEXIST if the id is taken; EINVAL past the limits
   */
  createVcpu(id: number, door?: HotDoor): Vcpu {
    using scope = new Scope();
    const target = `vcpu ${id}`;
    const fd = scope.own(Fd.adopt(ioctl(this.fd, uapi.KVM_CREATE_VCPU, id, target), target));
    const mapping = scope.own(Mapping.file(fd, this.#vcpuMmapSize, { isSeenByThreads: true }));
    const xsaveBytes = Math.max(this.checkExtension('KVM_CAP_XSAVE2'), Xsave.size);
    const vcpu = Vcpu.adopt({ fd, mapping, xsaveBytes, door });
    scope.move();
    return vcpu;
  }

  // --- memory ---

  /**
   * Adds, changes or deletes a slot; {@link MemorySlots} keeps their numbers.
   * @throws SysError EEXIST on overlap; EINVAL for a misaligned range, or a change of what cannot change
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
  }

  /**
   * Pages of a slot written since the last call: bit n is page n. Write protection starts anew, unless
   * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 leaves that to {@link clearDirtyLog}.
   * @param bytes the slot's size
   * @throws SysError ENOENT if the slot does not log
   */
  getDirtyLog(slot: number, bytes: bigint): Uint8Array {
    const bitmap = bitmapFor(bytes / PAGE_SIZE);
    const dirty_bitmap = BigInt(addressOf(bitmap));
    const target = `${this.fd.target}, slot ${slot}`;
    ioctl(this.fd, uapi.KVM_GET_DIRTY_LOG, uapi.DirtyLog.encode({ slot, dirty_bitmap }), target);
    return bitmap.subarray(0, bitmapBytes(bytes / PAGE_SIZE));
  }

  /**
   * Write-protects the pages that `bitmap` names, whose bit 0 is `firstPage`.
   * @param firstPage a multiple of 64
   * @param pages a multiple of 64, or up to the slot's end
   * @throws SysError EINVAL if those are not, or the capability is not enabled
   */
  clearDirtyLog(slot: number, firstPage: bigint, pages: number, bitmap: Uint8Array): void {
    const copy = bitmapFor(BigInt(pages));
    copy.set(bitmap.subarray(0, bitmapBytes(BigInt(pages))));
    const bytes = uapi.ClearDirtyLog.encode({
      slot,
      num_pages: pages,
      first_page: firstPage,
      dirty_bitmap: BigInt(addressOf(copy)),
    });
    ioctl(this.fd, uapi.KVM_CLEAR_DIRTY_LOG, bytes, `${this.fd.target}, slot ${slot}`);
  }

  /** Three pages that Intel processors need for real mode; not in a memory slot. Before the first vCPU. */
  setTssAddr(address: Gpa): void {
    ioctl(this.fd, uapi.KVM_SET_TSS_ADDR, Number(address));
  }

  /** One page that Intel processors need for real mode; not in a memory slot. Before the first vCPU. */
  setIdentityMapAddr(address: Gpa): void {
    const bytes = new Uint8Array(new BigUint64Array([address]).buffer);
    ioctl(this.fd, uapi.KVM_SET_IDENTITY_MAP_ADDR, bytes);
  }

  // --- interrupt controllers ---

  /** PIC, IOAPIC and local APICs in the kernel. Before the first vCPU. @throws SysError EEXIST */
  createIrqchip(): void {
    ioctl(this.fd, uapi.KVM_CREATE_IRQCHIP);
  }

  /**
   * Local APICs in the kernel; PIC and IOAPIC are the VMM's. Before the first vCPU.
   * @param ioapicPins GSIs 0 to here minus 1 are the VMM's IOAPIC: their EOIs become `ioapic-eoi` exits
   * @throws SysError EEXIST
   */
  enableSplitIrqchip(ioapicPins = uapi.KVM_IOAPIC_NUM_PINS): void {
    this.enableCap('KVM_CAP_SPLIT_IRQCHIP', BigInt(ioapicPins));
  }

  getIoapic(): uapi.IoapicState {
    return uapi.IoapicState.decode(this.#getIrqchip(uapi.KVM_IRQCHIP_IOAPIC));
  }

  setIoapic(state: uapi.IoapicState): void {
    this.#setIrqchip(uapi.KVM_IRQCHIP_IOAPIC, uapi.IoapicState.encode(state));
  }

  /** @param chip_id KVM_IRQCHIP_PIC_MASTER or _SLAVE */
  getPic(chip_id: 0 | 1): uapi.PicState {
    return uapi.PicState.decode(this.#getIrqchip(chip_id));
  }

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

  /** The interval timer, with the full irqchip only. @param flags KVM_PIT_ bits @throws SysError EEXIST, ENOENT */
  createPit2(flags = uapi.KVM_PIT_SPEAKER_DUMMY): void {
    ioctl(this.fd, uapi.KVM_CREATE_PIT2, uapi.PitConfig.encode({ flags }));
  }

  getPit2(): uapi.PitState2 {
    const bytes = uapi.PitState2.encode();
    ioctl(this.fd, uapi.KVM_GET_PIT2, bytes);
    return uapi.PitState2.decode(bytes);
  }

  setPit2(state: uapi.PitState2): void {
    ioctl(this.fd, uapi.KVM_SET_PIT2, uapi.PitState2.encode(state));
  }

  // --- interrupts ---

  /** Sets the level of a line. Edge-triggered pins take a raise and a lower. @throws SysError ENXIO without IOAPIC */
  irqLine(gsi: number, isHigh: boolean): void {
    ioctl(this.fd, uapi.KVM_IRQ_LINE, uapi.IrqLevel.encode({ irq: gsi, level: isHigh ? 1 : 0 }));
  }

  /** Sends a message now, without a route. False if the guest has it blocked. @throws SysError EINVAL without APICs */
  signalMsi({ address, data }: MsiMessage): boolean {
    const address_lo = Number(address & 0xffff_ffffn);
    const address_hi = Number(address >> 32n);
    return ioctl(this.fd, uapi.KVM_SIGNAL_MSI, uapi.Msi.encode({ address_lo, address_hi, data })) > 0;
  }

  /** Replaces the whole table at once; {@link GsiRouting} keeps it. @param entries `struct kvm_irq_routing_entry`s */
  setGsiRouting(entries: readonly Uint8Array[]): void {
    const { size } = uapi.IrqRoutingEntry;
    const bytes = uapi.IrqRouting.encode({ nr: entries.length }, entries.length * size);
    entries.forEach((entry, i) => {
      bytes.set(entry, uapi.IrqRouting.size + i * size);
    });
    ioctl(this.fd, uapi.KVM_SET_GSI_ROUTING, bytes);
  }

  /**
   * Lets an eventfd raise a GSI, with no exit and no thread of ours on the way. What the GSI means may change later.
   * Dispose it before the eventfd.
   * @throws SysError EBUSY if the eventfd is bound already; EINVAL if it is no eventfd or there is no irqchip
   */
  assignIrqfd({ fd, gsi, resampleFd }: IrqfdOptions): Disposable {
    const resample =
      resampleFd === undefined ? {} : { flags: uapi.KVM_IRQFD_FLAG_RESAMPLE, resamplefd: resampleFd.number };
    const irqfd = { fd: fd.number, gsi };
    const target = `${fd.target}, gsi ${gsi}`;
    ioctl(this.fd, uapi.KVM_IRQFD, uapi.Irqfd.encode({ ...irqfd, ...resample }), target);
    return this.#undone(() => {
      const flags = uapi.KVM_IRQFD_FLAG_DEASSIGN;
      ioctl(this.fd, uapi.KVM_IRQFD, uapi.Irqfd.encode({ ...irqfd, flags }), target);
    });
  }

  /**
   * Lets a guest write signal an eventfd instead of making an exit. Dispose it before the eventfd.
   * @throws SysError EEXIST if the address is bound, with this value or with any; ENOSPC; EINVAL for a bad length
   */
  assignIoeventfd({ fd, address, length, datamatch, isPio }: IoeventfdOptions): Disposable {
    const flags =
      (datamatch === undefined ? 0 : uapi.KVM_IOEVENTFD_FLAG_DATAMATCH) |
      (isPio ? uapi.KVM_IOEVENTFD_FLAG_PIO : 0);
    const ioeventfd = { datamatch: datamatch ?? 0n, addr: address, len: length, fd: fd.number };
    const target = `${fd.target}, ${isPio ? 'port' : 'address'} 0x${address.toString(16)}`;
    ioctl(this.fd, uapi.KVM_IOEVENTFD, uapi.Ioeventfd.encode({ ...ioeventfd, flags }), target);
    return this.#undone(() => {
      const undo = flags | uapi.KVM_IOEVENTFD_FLAG_DEASSIGN;
      ioctl(this.fd, uapi.KVM_IOEVENTFD, uapi.Ioeventfd.encode({ ...ioeventfd, flags: undo }), target);
    });
  }

  /** Something of the VM's that is taken back, unless the VM has gone and it with it. */
  #undone(undo: () => void): Disposable {
    return disposable(() => {
      if (this.fd.isOpen) undo();
    });
  }

  // --- clock ---

  /** kvmclock, in ns, and what it was read together with. */
  getClock(): uapi.ClockData {
    const bytes = uapi.ClockData.encode();
    ioctl(this.fd, uapi.KVM_GET_CLOCK, bytes);
    return uapi.ClockData.decode(bytes);
  }

  /** `flags` may hold KVM_CLOCK_REALTIME: the time since `realtime` is then added. @throws SysError EINVAL */
  setClock(clock: Partial<uapi.ClockData>): void {
    ioctl(this.fd, uapi.KVM_SET_CLOCK, uapi.ClockData.encode(clock));
  }

  // --- devices ---

  /** @param type KVM_DEV_TYPE_… @throws SysError ENODEV if the kernel lacks it; EBUSY for a second kvm-vfio */
  createDevice(type: number): KvmDevice {
    return KvmDevice.create(this.fd, type);
  }

  /** Whether {@link createDevice} could succeed. */
  hasDevice(type: number): boolean {
    return KvmDevice.isSupported(this.fd, type);
  }

  /**
   * Makes `device` the VM's one kvm-vfio device, to be disposed with it.
   * @returns undoes this
   * @throws SysError EBUSY if there is one
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

  /** A VFIO file belongs to this VM now. Undone by {@link endAssignment}. */
  startAssignment(): void {
    this.#assigned++;
  }

  /** @throws RangeError without a {@link startAssignment} to undo */
  endAssignment(): void {
    if (this.#assigned === 0) throw new RangeError('no device is assigned');
    this.#assigned--;
  }

  /** Whether a VFIO file of this process belongs to the VM. */
  get hasAssignedDevice(): boolean {
    return this.#assigned > 0;
  }

  /** A device whose DMA does not snoop caches belongs to this VM now. Undone by {@link unregisterNoncoherentDma}. */
  registerNoncoherentDma(): void {
    this.#noncoherent++;
  }

  /** @throws RangeError without a {@link registerNoncoherentDma} to undo */
  unregisterNoncoherentDma(): void {
    if (this.#noncoherent === 0) throw new RangeError('no non-coherent DMA is registered');
    this.#noncoherent--;
  }

  /** Whether a guest's cache control has to be taken seriously, for devices of this process. */
  get hasNoncoherentDma(): boolean {
    return this.#noncoherent > 0;
  }

  /** Lets go of VFIO files first, then of the owner's reference. */
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

/** KVM writes whole longs. */
const bitmapBytes = (pages: bigint): number => Number((pages + 63n) / 64n) * 8;
/** Off the JavaScript heap, so that its address holds. */
const bitmapFor = (pages: bigint): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Math.max(bitmapBytes(pages), Number(PAGE_SIZE)));

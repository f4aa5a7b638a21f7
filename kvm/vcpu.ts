import type { Fd } from '../sys/fd.js';
import { ioctl } from '../sys/ioctl.js';
import type { DoorChoice, IoctlDoor } from '../sys/ioctl-door.js';
import type { Mapping } from '../sys/mapping.js';
import { decodeCpuid, encodeCpuid } from './cpuid.js';
import type { RunPage, VcpuExit } from './exits.js';
import { getMsrs, setMsrs } from './msrs.js';
import { type VcpuHandle, VcpuRunner } from './runner.js';
import type { CpuidEntry2, MsrEntry } from './uapi.js';
import * as uapi from './uapi-vcpu.js';

/** KVM_MAX_CPUID_ENTRIES of the kernel. */
const MAX_CPUID_ENTRIES = 256;
/** sizeof(sigset_t) in the kernel, not in libc. */
const SIGSET_BYTES = 8;

/** Parts of a {@link Vcpu}, which takes ownership of `fd` and `mapping`. */
export interface VcpuParts {
  /** The vCPU's descriptor; {@link Vcpu} takes ownership. */
  readonly fd: Fd;
  /** The vCPU's kvm_run. */
  readonly mapping: Mapping;
  /** Bytes that KVM_GET_XSAVE2 writes: KVM_CAP_XSAVE2 of the VM. */
  readonly xsaveBytes: number;
  /** Calls KVM_RUN; `auto` if absent. @see VcpuRunner.of */
  readonly door?: DoorChoice | IoctlDoor | undefined;
  /** The vCPU's dirty ring, if it has one; {@link Vcpu} takes ownership. */
  readonly dirtyRing?: Disposable | undefined;
}

/**
 * The vCPU fd. Only the thread that runs the vCPU should call its methods: KVM blocks callers in other threads until
 * KVM_RUN returns. Stop that thread before disposing.
 */
export class Vcpu implements Disposable {
  /** The vCPU's descriptor, owned by this object. */
  readonly fd: Fd;
  /** kvm_run, for answers to exits and immediate_exit. */
  readonly page: RunPage;
  /** What another thread needs to run this vCPU with a {@link VcpuRunner}. */
  readonly handle: VcpuHandle;
  readonly #mapping: Mapping;
  readonly #runner: VcpuRunner;
  readonly #xsaveBytes: number;
  readonly #dirtyRing: Disposable | undefined;

  private constructor(parts: VcpuParts, handle: VcpuHandle, runner: VcpuRunner) {
    this.fd = parts.fd;
    this.handle = handle;
    this.page = runner.page;
    this.#mapping = parts.mapping;
    this.#runner = runner;
    this.#xsaveBytes = parts.xsaveBytes;
    this.#dirtyRing = parts.dirtyRing;
  }

  /** Takes ownership of a vCPU's descriptor and mapping. */
  static adopt(parts: VcpuParts): Vcpu {
    const { fd, mapping } = parts;
    const { address } = mapping.view;
    const handle = { target: fd.target, fd: fd.number, address, bytes: mapping.bytes };
    return new Vcpu(parts, handle, VcpuRunner.of(handle, parts.door));
  }

  /** Runs the guest in this thread until its next exit. @throws SysError as {@link VcpuRunner.run} */
  run(): VcpuExit {
    void this.fd.number; // throws after close: kvm_run is unmapped
    return this.#runner.run();
  }

  /**
   * Completes the access of the last exit without entering the guest, so that its registers are consistent and can be
   * saved. Returns `interrupted` when complete; any other exit is another part of the access: handle it and repeat.
   */
  completeAccess(): VcpuExit {
    this.page.setImmediateExit(true);
    try {
      return this.run();
    } finally {
      this.page.setImmediateExit(false);
    }
  }

  /** General registers, RIP and RFLAGS. @see KVM_GET_REGS */
  getRegs(): uapi.Regs {
    return uapi.Regs.decode(this.#get(uapi.KVM_GET_REGS, uapi.Regs.encode()));
  }

  /** Sets all registers; omitted ones become 0. */
  setRegs(regs: Partial<uapi.Regs>): void {
    ioctl(this.fd, uapi.KVM_SET_REGS, uapi.Regs.encode(regs));
  }

  /**
   * Segment, descriptor-table and control registers, EFER, APIC base, and the pending interrupt.
   * @see KVM_GET_SREGS
   */
  getSregs(): uapi.Sregs {
    return uapi.Sregs.decode(this.#get(uapi.KVM_GET_SREGS, uapi.Sregs.encode()));
  }

  /** @throws SysError EINVAL for a combination of control registers that no processor allows */
  setSregs(sregs: uapi.Sregs): void {
    ioctl(this.fd, uapi.KVM_SET_SREGS, uapi.Sregs.encode(sregs));
  }

  /** Like {@link getSregs}, plus the PAE page directory pointers. Requires KVM_CAP_SREGS2. */
  getSregs2(): uapi.Sregs2 {
    return uapi.Sregs2.decode(this.#get(uapi.KVM_GET_SREGS2, uapi.Sregs2.encode()));
  }

  /**
   * Like {@link setSregs}, plus the PAE page directory pointers.
   * @throws SysError EINVAL as {@link setSregs}; or without KVM_CAP_SREGS2
   */
  setSregs2(sregs: uapi.Sregs2): void {
    ioctl(this.fd, uapi.KVM_SET_SREGS2, uapi.Sregs2.encode(sregs));
  }

  /** CPUID as the guest sees it. */
  getCpuid2(): CpuidEntry2[] {
    return decodeCpuid(this.#get(uapi.KVM_GET_CPUID2, encodeCpuid([], MAX_CPUID_ENTRIES)));
  }

  /** @throws SysError EINVAL once the vCPU has run; E2BIG for more than 256 entries */
  setCpuid2(entries: readonly CpuidEntry2[]): void {
    ioctl(this.fd, uapi.KVM_SET_CPUID2, encodeCpuid(entries));
  }

  /** @throws SysError EINVAL naming the first MSR that KVM rejects */
  getMsrs(indices: readonly number[]): MsrEntry[] {
    return getMsrs(this.fd, uapi.KVM_GET_MSRS, indices);
  }

  /** Sets MSRs in order. @throws SysError EINVAL naming the first MSR that KVM rejects; those before it are set */
  setMsrs(entries: readonly { readonly index: number; readonly data: bigint }[]): void {
    setMsrs(this.fd, uapi.KVM_SET_MSRS, entries);
  }

  /** The local APIC's registers, 1 KiB. @throws SysError EINVAL if the local APIC is not in the kernel */
  getLapic(): Uint8Array {
    return this.#get(uapi.KVM_GET_LAPIC, uapi.LapicState.encode());
  }

  /**
   * Sets the local APIC's register page.
   * @param regs 1 KiB, as returned by {@link getLapic}
   * @throws SysError EINVAL if the APIC is not in the kernel
   */
  setLapic(regs: Uint8Array): void {
    ioctl(this.fd, uapi.KVM_SET_LAPIC, uapi.LapicState.encode({ regs }));
  }

  /** x87 and SSE registers. KVM neither reads nor writes `mxcsr` here: use the XSAVE area. */
  getFpu(): uapi.Fpu {
    return uapi.Fpu.decode(this.#get(uapi.KVM_GET_FPU, uapi.Fpu.encode()));
  }

  /** Sets the x87 and SSE registers except `mxcsr`. @see KVM_SET_FPU */
  setFpu(fpu: uapi.Fpu): void {
    ioctl(this.fd, uapi.KVM_SET_FPU, uapi.Fpu.encode(fpu));
  }

  /** The XSAVE area: 4096 bytes, or more once this process was granted a feature such as AMX. */
  getXsave(): Uint8Array {
    const extra = this.#xsaveBytes - uapi.Xsave.size;
    const request = extra > 0 ? uapi.KVM_GET_XSAVE2 : uapi.KVM_GET_XSAVE;
    return this.#get(request, uapi.Xsave.encode({}, Math.max(extra, 0)));
  }

  /** @param area as returned by {@link getXsave} @throws RangeError if it is shorter than KVM reads */
  setXsave(area: Uint8Array): void {
    if (area.length < this.#xsaveBytes) {
      throw new RangeError(`an XSAVE area of ${this.#xsaveBytes} bytes is needed, not ${area.length}`);
    }
    ioctl(this.fd, uapi.KVM_SET_XSAVE, area);
  }

  /** Extended control registers by number. Only XCR0 exists today. */
  getXcrs(): Map<number, bigint> {
    const { nr_xcrs, xcrs } = uapi.Xcrs.decode(this.#get(uapi.KVM_GET_XCRS, uapi.Xcrs.encode()));
    return new Map(xcrs.slice(0, nr_xcrs).map(({ xcr, value }) => [xcr, value]));
  }

  /**
   * Sets extended control registers.
   * @param values by number; only 0 exists today
   * @throws SysError EINVAL for bits that the guest's CPUID lacks
   */
  setXcrs(values: ReadonlyMap<number, bigint>): void {
    const xcrs = [...values].map(([xcr, value]) => ({ xcr, reserved: 0, value }));
    ioctl(this.fd, uapi.KVM_SET_XCRS, uapi.Xcrs.encode({ nr_xcrs: xcrs.length, xcrs }));
  }

  /** The multiprocessing state: KVM_MP_STATE_… */
  getMpState(): number {
    return uapi.MpState.decode(this.#get(uapi.KVM_GET_MP_STATE, uapi.MpState.encode())).mp_state;
  }

  /** @throws SysError EINVAL for a state that requires in-kernel local APICs, without them */
  setMpState(mp_state: number): void {
    ioctl(this.fd, uapi.KVM_SET_MP_STATE, uapi.MpState.encode({ mp_state }));
  }

  /** Pending exceptions, interrupts and NMIs. */
  getVcpuEvents(): uapi.VcpuEvents {
    return uapi.VcpuEvents.decode(this.#get(uapi.KVM_GET_VCPU_EVENTS, uapi.VcpuEvents.encode()));
  }

  /** Some fields are ignored unless `flags` has their KVM_VCPUEVENT_VALID_ bit. */
  setVcpuEvents(events: uapi.VcpuEvents): void {
    ioctl(this.fd, uapi.KVM_SET_VCPU_EVENTS, uapi.VcpuEvents.encode(events));
  }

  /** DR0 to DR3, DR6 and DR7 of the guest. @see KVM_GET_DEBUGREGS */
  getDebugRegs(): uapi.DebugRegs {
    return uapi.DebugRegs.decode(this.#get(uapi.KVM_GET_DEBUGREGS, uapi.DebugRegs.encode()));
  }

  /**
   * Sets the guest's debug registers.
   * @throws SysError EINVAL for non-zero `flags`, or reserved bits in DR6 or DR7
   */
  setDebugRegs(registers: uapi.DebugRegs): void {
    ioctl(this.fd, uapi.KVM_SET_DEBUGREGS, uapi.DebugRegs.encode(registers));
  }

  /** Frequency of the guest's TSC in kHz. @throws SysError EIO if the host's TSC is not stable */
  getTscKhz(): number {
    return ioctl(this.fd, uapi.KVM_GET_TSC_KHZ);
  }

  /** @throws SysError EINVAL if the processor cannot scale to this frequency */
  setTscKhz(khz: number): void {
    ioctl(this.fd, uapi.KVM_SET_TSC_KHZ, khz);
  }

  /**
   * Sets the signal mask that replaces the thread's own inside KVM_RUN.
   * @param blocked bit n-1 blocks signal n; undefined restores the thread's mask
   */
  setSignalMask(blocked: bigint | undefined): void {
    if (blocked === undefined) {
      ioctl(this.fd, uapi.KVM_SET_SIGNAL_MASK, 0);
      return;
    }
    const bytes = uapi.SignalMask.encode({ len: SIGSET_BYTES }, SIGSET_BYTES);
    new DataView(bytes.buffer).setBigUint64(uapi.SignalMask.size, blocked, true);
    ioctl(this.fd, uapi.KVM_SET_SIGNAL_MASK, bytes);
  }

  /** Injects a non-maskable interrupt. */
  nmi(): void {
    ioctl(this.fd, uapi.KVM_NMI);
  }

  /**
   * Injects an interrupt in a VM without an in-kernel irqchip, when {@link RunPage.isReadyForInterrupt}.
   * @throws SysError ENXIO with an in-kernel irqchip; EEXIST if one is pending; EINVAL past vector 255
   */
  interrupt(vector: number): void {
    ioctl(this.fd, uapi.KVM_INTERRUPT, uapi.Interrupt.encode({ irq: vector }));
  }

  /** Walks the guest's page tables. `valid` is 0 if the address is not mapped. */
  translate(linear_address: bigint): uapi.Translation {
    const bytes = uapi.Translation.encode({ linear_address });
    return uapi.Translation.decode(this.#get(uapi.KVM_TRANSLATE, bytes));
  }

  /**
   * Reports the guest's debug events as `debug` exits.
   * @param control KVM_GUESTDBG_… bits; 0 disables it
   * @param debugreg DR0-DR3 at 0-3 and DR7 at 7, for hardware breakpoints
   */
  setGuestDebug(control: number, debugreg: readonly bigint[] = []): void {
    const arch = { debugreg: [...debugreg] };
    ioctl(this.fd, uapi.KVM_SET_GUEST_DEBUG, uapi.GuestDebug.encode({ control, arch }));
  }

  /**
   * Marks a guest with kvmclock as paused, so that its watchdogs do not report a lockup.
   * @throws SysError EINVAL if the guest has not enabled kvmclock
   */
  kvmclockCtrl(): void {
    ioctl(this.fd, uapi.KVM_KVMCLOCK_CTRL);
  }

  #get(request: Parameters<typeof ioctl>[1], bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    ioctl(this.fd, request, bytes);
    return bytes;
  }

  /**
   * Unmaps kvm_run and closes the descriptor. No thread may still be in KVM_RUN or use a {@link VcpuHandle}.
   */
  [Symbol.dispose](): void {
    this.#dirtyRing?.[Symbol.dispose]();
    this.#mapping[Symbol.dispose]();
    this.fd[Symbol.dispose]();
  }
}

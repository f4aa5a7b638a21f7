/**
 * Exits of KVM_RUN as a tagged union, and {@link RunPage}, which decodes them from kvm_run. It needs only the address
 * of kvm_run, so it works in any thread.
 */
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { checkedResult } from '../sys/ioctl.js';
import { MemoryView } from '../sys/mapping.js';
import * as uapi from './uapi-vcpu.js';

/**
 * The guest accessed an I/O port. `data` holds `count` elements of `size` bytes, all for the same port; `rep ins` and
 * `rep outs` give more than one. Forward one access per element to the device. For a read, fill all of `data` before
 * the next run.
 */
export interface IoExit {
  readonly kind: 'io';
  /** True for `out` and `outs`, false for `in` and `ins`. */
  readonly isWrite: boolean;
  /** First port of the access, 0 to 0xffff. */
  readonly port: number;
  /** Bytes per element: 1, 2 or 4. */
  readonly size: number;
  /** Number of elements; 1 unless the instruction has a `rep` prefix. */
  readonly count: number;
  /** `size * count` bytes in kvm_run, little-endian; valid until the next run. */
  readonly data: Uint8Array;
}

/** The guest accessed an address outside all memory slots. For a read, fill `data` before the next run. */
export interface MmioExit {
  readonly kind: 'mmio';
  /** True if the guest stores, false if it loads. */
  readonly isWrite: boolean;
  /** Guest physical address. A number suffices: x86 has at most 52 bits. */
  readonly address: number;
  /** 1 to 8 bytes. */
  readonly data: Uint8Array;
}

/** KVM cannot continue. Final: the guest's state is as it was before the instruction. */
export interface InternalErrorExit {
  readonly kind: 'internal-error';
  /** KVM_INTERNAL_ERROR_…; 1 is an instruction that KVM cannot emulate. */
  readonly suberror: number;
  /** The instruction and the bytes after it, if KVM reports them; else empty. @see KVM_CAP_EXIT_ON_EMULATION_FAILURE */
  readonly instruction: Uint8Array;
  /** Debug data from KVM, without a fixed meaning. */
  readonly data: readonly bigint[];
}

/** The processor rejected the guest's state. Final. */
export interface FailEntryExit {
  readonly kind: 'fail-entry';
  /** The processor's error code. @see the Intel SDM, "VM-entry failures"; the AMD APM, "VMEXIT_INVALID" */
  readonly reason: bigint;
  /** The host CPU on which it failed. */
  readonly cpu: number;
}

/** A debug event enabled by {@link Vcpu.setGuestDebug}. */
export interface DebugExit {
  readonly kind: 'debug';
  /** Vector of the exception: 1 for #DB, 3 for #BP. */
  readonly exception: number;
  /** Linear address of the instruction: RIP plus the base of CS. */
  readonly pc: bigint;
  /** DR6, the debug status register. */
  readonly dr6: bigint;
  /** DR7, the debug control register. */
  readonly dr7: bigint;
}

/** The guest requested a platform event. */
export interface SystemEventExit {
  readonly kind: 'system-event';
  /** KVM_SYSTEM_EVENT_… */
  readonly type: number;
  /** Values that KVM adds to the event; their meaning depends on `type`. */
  readonly data: readonly bigint[];
}

/** A hypercall that KVM_CAP_EXIT_HYPERCALL forwards. Answer with {@link RunPage.answerHypercall}. */
export interface HypercallExit {
  readonly kind: 'hypercall';
  /** Number of the hypercall: KVM_HC_…, the guest's RAX. */
  readonly nr: bigint;
  /** The six arguments; the guest fills as many as the hypercall has. */
  readonly args: readonly bigint[];
}

/** An MSR access that KVM_CAP_X86_USER_SPACE_MSR forwards. Answer with {@link RunPage.answerMsr}. */
export interface MsrExit {
  /** `rdmsr` needs a value as the answer, `wrmsr` an acknowledgement. */
  readonly kind: 'rdmsr' | 'wrmsr';
  /** Index of the MSR: the guest's ECX. */
  readonly index: number;
  /** KVM_MSR_EXIT_REASON_… */
  readonly reason: number;
  /** The value written; 0 for rdmsr. */
  readonly data: bigint;
}

/** Split irqchip: the guest signalled EOI for a level-triggered interrupt of the VMM's IOAPIC. */
export interface IoapicEoiExit {
  readonly kind: 'ioapic-eoi';
  /** Vector of the acknowledged interrupt, as the IOAPIC pin was programmed. */
  readonly vector: number;
}

/** An exit that this package does not decode. */
export interface UnknownExit {
  readonly kind: 'unknown';
  /** KVM_EXIT_… */
  readonly reason: number;
  /** The processor's exit reason for KVM_EXIT_UNKNOWN; else 0. */
  readonly hardwareReason: bigint;
}

/** Exits without a payload. */
export interface BareExit {
  /**
   * `hlt`: the vCPU halted and no in-kernel irqchip waits for it: the VMM waits for an interrupt.
   * `shutdown`: triple fault.
   * `irq-window`: the guest can take an interrupt, as requested by {@link RunPage.setRequestInterruptWindow}.
   * `interrupted`: a signal or immediate_exit; the guest resumes at the next run.
   * `again`: KVM_RUN returned EAGAIN, for an application processor that was woken; run again. From the boot processor it
   * means that KVM cannot make a thread that it needs (RLIMIT_NPROC, pids.max), and it may stay so.
   * `dirty-ring-full`: the vCPU's dirty ring has no room: call {@link Vm.harvestDirtyRings}, and run again.
   */
  readonly kind: 'hlt' | 'shutdown' | 'irq-window' | 'interrupted' | 'again' | 'dirty-ring-full';
}

/** One exit. The object and everything in it are reused: valid until the next run of the same vCPU. */
export type VcpuExit =
  | IoExit
  | MmioExit
  | BareExit
  | InternalErrorExit
  | FailEntryExit
  | DebugExit
  | SystemEventExit
  | HypercallExit
  | MsrExit
  | IoapicEoiExit
  | UnknownExit;

type Writable<T> = { -readonly [K in keyof T]: T[K] };

const HLT: VcpuExit = { kind: 'hlt' };
const SHUTDOWN: VcpuExit = { kind: 'shutdown' };
const IRQ_WINDOW: VcpuExit = { kind: 'irq-window' };
const INTERRUPTED: VcpuExit = { kind: 'interrupted' };
const AGAIN: VcpuExit = { kind: 'again' };
const DIRTY_RING_FULL: VcpuExit = { kind: 'dirty-ring-full' };
const NO_BYTES = new Uint8Array(0);

const { offsets: run } = uapi.Run;
const UNION = run.padding;
const IO = uapi.RunIo.offsets;
const MMIO = uapi.RunMmio.offsets;
const MSR = uapi.RunMsr.offsets;
const MMIO_DATA = UNION + MMIO.data;
const { EINTR, EAGAIN, EFAULT } = errno;

/**
 * Decodes and answers the exits in a vCPU's kvm_run. Several threads may each have an instance for the same vCPU, but
 * only one at a time may use it.
 */
export class RunPage {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  // Exits occur by the million and must not produce garbage: one object per hot kind, one view per length.
  readonly #io: Writable<IoExit>;
  readonly #mmio: Writable<MmioExit>;
  readonly #eoi: Writable<IoapicEoiExit> = { kind: 'ioapic-eoi', vector: 0 };
  readonly #mmioData: readonly Uint8Array[];
  readonly #ioData: (Uint8Array | undefined)[] = [];
  #ioOffset = -1;

  /**
   * @param address of kvm_run in this process; must stay mapped while this is in use
   * @param bytes KVM_GET_VCPU_MMAP_SIZE
   */
  constructor(address: number, bytes: number) {
    this.#bytes = new MemoryView(address, bytes).slice(0, bytes);
    this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, bytes);
    this.#io = { kind: 'io', isWrite: false, port: 0, size: 1, count: 1, data: NO_BYTES };
    this.#mmio = { kind: 'mmio', isWrite: false, address: 0, data: NO_BYTES };
    this.#mmioData = Array.from({ length: 9 }, (_, n) => this.#bytes.subarray(MMIO_DATA, MMIO_DATA + n));
  }

  /**
   * Decodes the outcome of a KVM_RUN. @param result its return value, or a negative errno @throws SysError if it failed
   */
  exit(result: number, target: string): VcpuExit {
    if (result === 0) return this.decode();
    if (result > 0) checkedResult(result, uapi.KVM_RUN, target);
    if (result === -EINTR) return INTERRUPTED;
    if (result === -EAGAIN) return AGAIN;
    throw this.#failure(-result, target);
  }

  /** The exit in kvm_run after a KVM_RUN that returned 0. */
  decode(): VcpuExit {
    const reason = this.#view.getUint32(run.exit_reason, true);
    switch (reason) {
      case uapi.KVM_EXIT_IO:
        return this.#decodeIo();
      case uapi.KVM_EXIT_MMIO:
        return this.#decodeMmio();
      case uapi.KVM_EXIT_HLT:
        return HLT;
      case uapi.KVM_EXIT_SHUTDOWN:
        return SHUTDOWN;
      case uapi.KVM_EXIT_IRQ_WINDOW_OPEN:
        return IRQ_WINDOW;
      case uapi.KVM_EXIT_INTR:
        return INTERRUPTED;
      case uapi.KVM_EXIT_IOAPIC_EOI:
        this.#eoi.vector = this.#view.getUint8(UNION + uapi.RunEoi.offsets.vector);
        return this.#eoi;
      default:
        return this.#decodeRare(reason);
    }
  }

  #decodeIo(): IoExit {
    const view = this.#view;
    const io = this.#io;
    io.isWrite = view.getUint8(UNION + IO.direction) === uapi.KVM_EXIT_IO_OUT;
    io.size = view.getUint8(UNION + IO.size);
    io.port = view.getUint16(UNION + IO.port, true);
    io.count = view.getUint32(UNION + IO.count, true);
    io.data = this.#ioBytes(view.getUint32(UNION + IO.data_offset, true), io.size * io.count);
    return io;
  }

  #ioBytes(offset: number, length: number): Uint8Array {
    if (offset !== this.#ioOffset) {
      this.#ioOffset = offset;
      this.#ioData.length = 0;
    }
    const known = this.#ioData[length];
    if (known !== undefined) return known;
    const data = this.#bytes.subarray(offset, offset + length);
    this.#ioData[length] = data;
    return data;
  }

  #decodeMmio(): MmioExit {
    const view = this.#view;
    const mmio = this.#mmio;
    const at = UNION + MMIO.phys_addr;
    mmio.isWrite = view.getUint8(UNION + MMIO.is_write) !== 0;
    mmio.address = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
    mmio.data = this.#mmioData[view.getUint32(UNION + MMIO.len, true)] as Uint8Array;
    return mmio;
  }

  #decodeRare(reason: number): VcpuExit {
    const bytes = this.#bytes;
    switch (reason) {
      case uapi.KVM_EXIT_INTERNAL_ERROR:
        return this.#decodeInternalError();
      case uapi.KVM_EXIT_FAIL_ENTRY: {
        const { hardware_entry_failure_reason, cpu } = uapi.RunFailEntry.decode(bytes, UNION);
        return { kind: 'fail-entry', reason: hardware_entry_failure_reason, cpu };
      }
      case uapi.KVM_EXIT_DEBUG: {
        const { exception, pc, dr6, dr7 } = uapi.RunDebug.decode(bytes, UNION).arch;
        return { kind: 'debug', exception, pc, dr6, dr7 };
      }
      case uapi.KVM_EXIT_SYSTEM_EVENT: {
        const { type, ndata, data } = uapi.RunSystemEvent.decode(bytes, UNION);
        return { kind: 'system-event', type, data: data.slice(0, ndata) };
      }
      case uapi.KVM_EXIT_HYPERCALL: {
        const { nr, args } = uapi.RunHypercall.decode(bytes, UNION);
        return { kind: 'hypercall', nr, args };
      }
      case uapi.KVM_EXIT_X86_RDMSR:
      case uapi.KVM_EXIT_X86_WRMSR: {
        const { index, reason: why, data } = uapi.RunMsr.decode(bytes, UNION);
        const isRead = reason === uapi.KVM_EXIT_X86_RDMSR;
        return { kind: isRead ? 'rdmsr' : 'wrmsr', index, reason: why, data: isRead ? 0n : data };
      }
      case uapi.KVM_EXIT_DIRTY_RING_FULL:
        return DIRTY_RING_FULL;
      default: {
        const { hardware_exit_reason } = uapi.RunHw.decode(bytes, UNION);
        const hardwareReason = reason === uapi.KVM_EXIT_UNKNOWN ? hardware_exit_reason : 0n;
        return { kind: 'unknown', reason, hardwareReason };
      }
    }
  }

  #decodeInternalError(): InternalErrorExit {
    const { suberror, ndata, data } = uapi.RunInternal.decode(this.#bytes, UNION);
    const error = { kind: 'internal-error', suberror, data: data.slice(0, ndata) } as const;
    // emulation_failure overlays `data`: its flags are word 0, the instruction is in words 1 and 2.
    const flags = ndata >= 3 ? (data[0] as bigint) : 0n;
    const hasInstruction = flags & BigInt(uapi.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    if (suberror !== uapi.KVM_INTERNAL_ERROR_EMULATION || !hasInstruction)
      return { ...error, instruction: NO_BYTES };
    const failure = uapi.RunEmulationFailure.decode(this.#bytes, UNION);
    return { ...error, instruction: failure.insn_bytes.subarray(0, failure.insn_size) };
  }

  #failure(code: number, target: string): SysError {
    let hint = uapi.KVM_RUN.hints.EFAULT;
    const reason = this.#view.getUint32(run.exit_reason, true);
    if (reason === uapi.KVM_EXIT_MEMORY_FAULT) {
      const { gpa, size } = uapi.RunMemoryFault.decode(this.#bytes, UNION);
      hint = `no memory for guest physical address 0x${gpa.toString(16)}, ${size} bytes: ${hint}`;
    }
    return new SysError({
      call: uapi.KVM_RUN.name,
      target,
      errno: code,
      hint: code === EFAULT ? hint : undefined,
    });
  }

  /**
   * If set, the next run completes the access of the last exit and returns `interrupted` without entering the guest.
   * Any thread may set it; the thread that runs the vCPU clears it.
   */
  setImmediateExit(isSet: boolean): void {
    Atomics.store(this.#bytes, run.immediate_exit, isSet ? 1 : 0);
  }

  /** Requests an `irq-window` exit as soon as the guest can take an interrupt. For VMs without an in-kernel irqchip. */
  setRequestInterruptWindow(isWanted: boolean): void {
    this.#bytes[run.request_interrupt_window] = isWanted ? 1 : 0;
  }

  /** Whether the guest can take a KVM_INTERRUPT now. */
  get isReadyForInterrupt(): boolean {
    return this.#bytes[run.ready_for_interrupt_injection] !== 0;
  }

  /** The guest's RFLAGS.IF at the last exit. */
  get isInterruptFlagSet(): boolean {
    return this.#bytes[run.if_flag] !== 0;
  }

  /** Sets the result of the last `hypercall` exit. */
  answerHypercall(result: bigint): void {
    this.#view.setBigUint64(UNION + uapi.RunHypercall.offsets.ret, result, true);
  }

  /** Answers the last `rdmsr` (with its value) or `wrmsr` exit; `undefined` rejects the access: the guest takes #GP. */
  answerMsr(value: bigint | undefined): void {
    this.#view.setUint8(UNION + MSR.error, value === undefined ? 1 : 0);
    if (value !== undefined) this.#view.setBigUint64(UNION + MSR.data, value, true);
  }

  /** Selects the registers that KVM stores in kvm_run at each exit: KVM_SYNC_X86_ bits. */
  setValidRegs(mask: number): void {
    this.#view.setBigUint64(run.kvm_valid_regs, BigInt(mask), true);
  }

  /** The registers at the last exit; only those selected by {@link setValidRegs} are valid. */
  readSyncRegs(): uapi.SyncRegs {
    return uapi.SyncRegs.decode(this.#bytes, run.s);
  }

  /** Sets registers for the next run, which consumes them. */
  writeSyncRegs(values: Partial<uapi.SyncRegs>): void {
    uapi.SyncRegs.write(this.#bytes, values, run.s);
    const mask =
      (values.regs === undefined ? 0 : uapi.KVM_SYNC_X86_REGS) |
      (values.sregs === undefined ? 0 : uapi.KVM_SYNC_X86_SREGS) |
      (values.events === undefined ? 0 : uapi.KVM_SYNC_X86_EVENTS);
    this.#view.setBigUint64(run.kvm_dirty_regs, BigInt(mask), true);
  }

  /** CR8 (the task priority) at the last exit. Unused with in-kernel local APICs. */
  get cr8(): bigint {
    return this.#view.getBigUint64(run.cr8, true);
  }

  set cr8(value: bigint) {
    this.#view.setBigUint64(run.cr8, value, true);
  }
}

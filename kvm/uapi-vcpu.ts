/**
 * linux/kvm.h and asm/kvm.h for the vCPU fd: register state, kvm_run and its exits, requests. The system fd's and the
 * VM fd's are in uapi.ts.
 */
import { io, ior, iow, iowr } from '../sys/ioctl.js';
import { type StructOf, struct } from '../sys/struct.js';
import { Cpuid2, KVMIO, Msrs } from './uapi.js';

const KERNEL = 'linux/kvm.h';
const ARCH = 'asm/kvm.h';

/** The C type of a member whose type has no name. */
const member = (of: string, name: string): string => `typeof(((${of} *)0)->${name})`;

// --- register state ---

export const Regs = struct('struct kvm_regs', ARCH, {
  rax: 'u64',
  rbx: 'u64',
  rcx: 'u64',
  rdx: 'u64',
  rsi: 'u64',
  rdi: 'u64',
  rsp: 'u64',
  rbp: 'u64',
  r8: 'u64',
  r9: 'u64',
  r10: 'u64',
  r11: 'u64',
  r12: 'u64',
  r13: 'u64',
  r14: 'u64',
  r15: 'u64',
  rip: 'u64',
  rflags: 'u64',
});
export type Regs = StructOf<typeof Regs>;

export const Segment = struct('struct kvm_segment', ARCH, {
  base: 'u64',
  limit: 'u32',
  selector: 'u16',
  type: 'u8',
  present: 'u8',
  dpl: 'u8',
  db: 'u8',
  s: 'u8',
  l: 'u8',
  g: 'u8',
  avl: 'u8',
  unusable: 'u8',
  padding: 'u8',
});
export type Segment = StructOf<typeof Segment>;

export const Dtable = struct('struct kvm_dtable', ARCH, { base: 'u64', limit: 'u16', padding: ['u16', 3] });
export type Dtable = StructOf<typeof Dtable>;

const systemRegisters = {
  cs: Segment,
  ds: Segment,
  es: Segment,
  fs: Segment,
  gs: Segment,
  ss: Segment,
  tr: Segment,
  ldt: Segment,
  gdt: Dtable,
  idt: Dtable,
  cr0: 'u64',
  cr2: 'u64',
  cr3: 'u64',
  cr4: 'u64',
  cr8: 'u64',
  efer: 'u64',
  apic_base: 'u64',
} as const;

/** `interrupt_bitmap` has at most one bit set: an interrupt accepted but not yet delivered. */
export const Sregs = struct('struct kvm_sregs', ARCH, { ...systemRegisters, interrupt_bitmap: ['u64', 4] });
export type Sregs = StructOf<typeof Sregs>;

export const Sregs2 = struct(
  'struct kvm_sregs2',
  ARCH,
  { ...systemRegisters, flags: 'u64', pdptrs: ['u64', 4] },
  { since: '5.14' },
);
export type Sregs2 = StructOf<typeof Sregs2>;
export const KVM_SREGS2_FLAGS_PDPTRS_VALID = 1;

export const Fpu = struct('struct kvm_fpu', ARCH, {
  fpr: ['u8', 8 * 16],
  fcw: 'u16',
  fsw: 'u16',
  ftwx: 'u8',
  pad1: 'u8',
  last_opcode: 'u16',
  last_ip: 'u64',
  last_dp: 'u64',
  xmm: ['u8', 16 * 16],
  mxcsr: 'u32',
  pad2: 'u32',
});
export type Fpu = StructOf<typeof Fpu>;

/** The XSAVE area, laid out by CPUID leaf 0xD. KVM_GET_XSAVE2 may write more than this. */
export const Xsave = struct('struct kvm_xsave', ARCH, { region: ['u32', 1024] });

const Xcr = struct('struct kvm_xcr', ARCH, { xcr: 'u32', reserved: 'u32', value: 'u64' });
export const Xcrs = struct('struct kvm_xcrs', ARCH, {
  nr_xcrs: 'u32',
  flags: 'u32',
  xcrs: [Xcr, 16],
  padding: ['u64', 16],
});
export type Xcrs = StructOf<typeof Xcrs>;

export const LapicState = struct('struct kvm_lapic_state', ARCH, { regs: ['u8', 0x400] });

export const MpState = struct('struct kvm_mp_state', KERNEL, { mp_state: 'u32' });
export const KVM_MP_STATE_RUNNABLE = 0;
export const KVM_MP_STATE_UNINITIALIZED = 1;
export const KVM_MP_STATE_INIT_RECEIVED = 2;
export const KVM_MP_STATE_HALTED = 3;
export const KVM_MP_STATE_SIPI_RECEIVED = 4;

const eventsMember = (name: string): string => member('struct kvm_vcpu_events', name);
const EventsException = struct(eventsMember('exception'), ARCH, {
  injected: 'u8',
  nr: 'u8',
  has_error_code: 'u8',
  pending: 'u8',
  error_code: 'u32',
});
const EventsInterrupt = struct(eventsMember('interrupt'), ARCH, {
  injected: 'u8',
  nr: 'u8',
  soft: 'u8',
  shadow: 'u8',
});
const EventsNmi = struct(eventsMember('nmi'), ARCH, {
  injected: 'u8',
  pending: 'u8',
  masked: 'u8',
  pad: 'u8',
});
const EventsSmi = struct(eventsMember('smi'), ARCH, {
  smm: 'u8',
  pending: 'u8',
  smm_inside_nmi: 'u8',
  latched_init: 'u8',
});
const EventsTripleFault = struct(eventsMember('triple_fault'), ARCH, { pending: 'u8' }, { since: '6.0' });
export const VcpuEvents = struct(
  'struct kvm_vcpu_events',
  ARCH,
  {
    exception: EventsException,
    interrupt: EventsInterrupt,
    nmi: EventsNmi,
    sipi_vector: 'u32',
    flags: 'u32',
    smi: EventsSmi,
    triple_fault: EventsTripleFault,
    reserved: ['u8', 26],
    exception_has_payload: 'u8',
    exception_payload: 'u64',
  },
  { since: '6.0' },
);
export type VcpuEvents = StructOf<typeof VcpuEvents>;
export const KVM_VCPUEVENT_VALID_NMI_PENDING = 1 << 0;
export const KVM_VCPUEVENT_VALID_SIPI_VECTOR = 1 << 1;
export const KVM_VCPUEVENT_VALID_SHADOW = 1 << 2;
export const KVM_VCPUEVENT_VALID_SMM = 1 << 3;
export const KVM_VCPUEVENT_VALID_PAYLOAD = 1 << 4;

export const DebugRegs = struct('struct kvm_debugregs', ARCH, {
  db: ['u64', 4],
  dr6: 'u64',
  dr7: 'u64',
  flags: 'u64',
  reserved: ['u64', 9],
});
export type DebugRegs = StructOf<typeof DebugRegs>;

const GuestDebugArch = struct('struct kvm_guest_debug_arch', ARCH, { debugreg: ['u64', 8] });
export const GuestDebug = struct('struct kvm_guest_debug', KERNEL, {
  control: 'u32',
  pad: 'u32',
  arch: GuestDebugArch,
});
export const KVM_GUESTDBG_ENABLE = 0x00000001;
export const KVM_GUESTDBG_SINGLESTEP = 0x00000002;
export const KVM_GUESTDBG_USE_SW_BP = 0x00010000;
export const KVM_GUESTDBG_USE_HW_BP = 0x00020000;
export const KVM_GUESTDBG_INJECT_DB = 0x00040000;
export const KVM_GUESTDBG_INJECT_BP = 0x00080000;
export const KVM_GUESTDBG_BLOCKIRQ = 0x00100000;

export const Translation = struct('struct kvm_translation', KERNEL, {
  linear_address: 'u64',
  physical_address: 'u64',
  valid: 'u8',
  writeable: 'u8',
  usermode: 'u8',
  pad: ['u8', 5],
});
export type Translation = StructOf<typeof Translation>;

export const Interrupt = struct('struct kvm_interrupt', KERNEL, { irq: 'u32' });
/** Followed by `len` bytes of signal set: 8, the size of the kernel's sigset_t. */
export const SignalMask = struct('struct kvm_signal_mask', KERNEL, { len: 'u32' });

// --- kvm_run, which KVM and the VMM share ---

/** `padding` is the union of the exits below, selected by `exit_reason`; `s` is {@link SyncRegs}. */
export const Run = struct('struct kvm_run', KERNEL, {
  request_interrupt_window: 'u8',
  immediate_exit: 'u8',
  padding1: ['u8', 6],
  exit_reason: 'u32',
  ready_for_interrupt_injection: 'u8',
  if_flag: 'u8',
  flags: 'u16',
  cr8: 'u64',
  apic_base: 'u64',
  padding: ['u8', 256],
  kvm_valid_regs: 'u64',
  kvm_dirty_regs: 'u64',
  s: ['u8', 2048],
});

export const SyncRegs = struct(
  'struct kvm_sync_regs',
  ARCH,
  { regs: Regs, sregs: Sregs, events: VcpuEvents },
  { since: '6.0' },
);
export type SyncRegs = StructOf<typeof SyncRegs>;
export const KVM_SYNC_X86_REGS = 1 << 0;
export const KVM_SYNC_X86_SREGS = 1 << 1;
export const KVM_SYNC_X86_EVENTS = 1 << 2;

const runMember = (name: string): string => member('struct kvm_run', name);
export const RunHw = struct(runMember('hw'), KERNEL, { hardware_exit_reason: 'u64' });
export const RunFailEntry = struct(runMember('fail_entry'), KERNEL, {
  hardware_entry_failure_reason: 'u64',
  cpu: 'u32',
});
export const RunIo = struct(runMember('io'), KERNEL, {
  direction: 'u8',
  size: 'u8',
  port: 'u16',
  count: 'u32',
  data_offset: 'u64',
});
export const KVM_EXIT_IO_IN = 0;
export const KVM_EXIT_IO_OUT = 1;
const DebugExitArch = struct('struct kvm_debug_exit_arch', ARCH, {
  exception: 'u32',
  pad: 'u32',
  pc: 'u64',
  dr6: 'u64',
  dr7: 'u64',
});
export const RunDebug = struct(runMember('debug'), KERNEL, { arch: DebugExitArch });
export const RunMmio = struct(runMember('mmio'), KERNEL, {
  phys_addr: 'u64',
  data: ['u8', 8],
  len: 'u32',
  is_write: 'u8',
});
export const RunHypercall = struct(runMember('hypercall'), KERNEL, {
  nr: 'u64',
  args: ['u64', 6],
  ret: 'u64',
  longmode: 'u32',
});
export const RunInternal = struct(runMember('internal'), KERNEL, {
  suberror: 'u32',
  ndata: 'u32',
  data: ['u64', 16],
});
export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_SIMUL_EX = 2;
export const KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
export const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;
export const RunEmulationFailure = struct(
  runMember('emulation_failure'),
  KERNEL,
  { suberror: 'u32', ndata: 'u32', flags: 'u64', insn_size: 'u8', insn_bytes: ['u8', 15] },
  { since: '5.14' },
);
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1 << 0;
export const RunSystemEvent = struct(
  runMember('system_event'),
  KERNEL,
  { type: 'u32', ndata: 'u32', data: ['u64', 16] },
  { since: '5.19' },
);
export const KVM_SYSTEM_EVENT_SHUTDOWN = 1;
export const KVM_SYSTEM_EVENT_RESET = 2;
export const KVM_SYSTEM_EVENT_CRASH = 3;
export const RunEoi = struct(runMember('eoi'), KERNEL, { vector: 'u8' });
export const RunMsr = struct(runMember('msr'), KERNEL, {
  error: 'u8',
  pad: ['u8', 7],
  reason: 'u32',
  index: 'u32',
  data: 'u64',
});
export const KVM_MSR_EXIT_REASON_INVAL = 1 << 0;
export const KVM_MSR_EXIT_REASON_UNKNOWN = 1 << 1;
export const KVM_MSR_EXIT_REASON_FILTER = 1 << 2;
export const RunMemoryFault = struct(
  runMember('memory_fault'),
  KERNEL,
  { flags: 'u64', gpa: 'u64', size: 'u64' },
  { since: '6.8' },
);

export const KVM_EXIT_UNKNOWN = 0;
export const KVM_EXIT_IO = 2;
export const KVM_EXIT_HYPERCALL = 3;
export const KVM_EXIT_DEBUG = 4;
export const KVM_EXIT_HLT = 5;
export const KVM_EXIT_MMIO = 6;
export const KVM_EXIT_IRQ_WINDOW_OPEN = 7;
export const KVM_EXIT_SHUTDOWN = 8;
export const KVM_EXIT_FAIL_ENTRY = 9;
export const KVM_EXIT_INTR = 10;
export const KVM_EXIT_INTERNAL_ERROR = 17;
export const KVM_EXIT_SYSTEM_EVENT = 24;
export const KVM_EXIT_IOAPIC_EOI = 26;
export const KVM_EXIT_X86_RDMSR = 29;
export const KVM_EXIT_X86_WRMSR = 30;
export const KVM_EXIT_DIRTY_RING_FULL = 31;
export const KVM_EXIT_MEMORY_FAULT = 39;

// --- requests ---

export const KVM_RUN = io('KVM_RUN', KVMIO, 0x80, {
  hints: {
    EFAULT:
      'the guest wrote to memory mapped read-only in this process, or to a page that could not be faulted in',
  },
});
export const KVM_GET_REGS = ior('KVM_GET_REGS', KVMIO, 0x81, Regs);
export const KVM_SET_REGS = iow('KVM_SET_REGS', KVMIO, 0x82, Regs);
export const KVM_GET_SREGS = ior('KVM_GET_SREGS', KVMIO, 0x83, Sregs);
export const KVM_SET_SREGS = iow('KVM_SET_SREGS', KVMIO, 0x84, Sregs);
export const KVM_TRANSLATE = iowr('KVM_TRANSLATE', KVMIO, 0x85, Translation);
export const KVM_INTERRUPT = iow('KVM_INTERRUPT', KVMIO, 0x86, Interrupt, {
  hints: {
    EEXIST: 'an interrupt is already pending',
    ENXIO: 'the VM’s in-kernel interrupt controller injects interrupts itself',
  },
});
export const KVM_GET_MSRS = iowr('KVM_GET_MSRS', KVMIO, 0x88, Msrs, { hasResult: true });
export const KVM_SET_MSRS = iow('KVM_SET_MSRS', KVMIO, 0x89, Msrs, { hasResult: true });
export const KVM_SET_SIGNAL_MASK = iow('KVM_SET_SIGNAL_MASK', KVMIO, 0x8b, SignalMask);
export const KVM_GET_FPU = ior('KVM_GET_FPU', KVMIO, 0x8c, Fpu);
export const KVM_SET_FPU = iow('KVM_SET_FPU', KVMIO, 0x8d, Fpu);
export const KVM_GET_LAPIC = ior('KVM_GET_LAPIC', KVMIO, 0x8e, LapicState, {
  hints: { EINVAL: 'the VM has no in-kernel local APICs' },
});
export const KVM_SET_LAPIC = iow('KVM_SET_LAPIC', KVMIO, 0x8f, LapicState, {
  hints: { EINVAL: 'the VM has no in-kernel local APICs' },
});
export const KVM_SET_CPUID2 = iow('KVM_SET_CPUID2', KVMIO, 0x90, Cpuid2, {
  hints: { EINVAL: 'set CPUID before the vCPU first runs' },
});
export const KVM_GET_CPUID2 = iowr('KVM_GET_CPUID2', KVMIO, 0x91, Cpuid2);
export const KVM_GET_MP_STATE = ior('KVM_GET_MP_STATE', KVMIO, 0x98, MpState);
export const KVM_SET_MP_STATE = iow('KVM_SET_MP_STATE', KVMIO, 0x99, MpState);
export const KVM_NMI = io('KVM_NMI', KVMIO, 0x9a);
export const KVM_SET_GUEST_DEBUG = iow('KVM_SET_GUEST_DEBUG', KVMIO, 0x9b, GuestDebug);
export const KVM_GET_VCPU_EVENTS = ior('KVM_GET_VCPU_EVENTS', KVMIO, 0x9f, VcpuEvents);
export const KVM_SET_VCPU_EVENTS = iow('KVM_SET_VCPU_EVENTS', KVMIO, 0xa0, VcpuEvents);
export const KVM_GET_DEBUGREGS = ior('KVM_GET_DEBUGREGS', KVMIO, 0xa1, DebugRegs);
export const KVM_SET_DEBUGREGS = iow('KVM_SET_DEBUGREGS', KVMIO, 0xa2, DebugRegs);
export const KVM_SET_TSC_KHZ = io('KVM_SET_TSC_KHZ', KVMIO, 0xa2, {
  hints: { EINVAL: 'this processor cannot scale the TSC (KVM_CAP_TSC_CONTROL)' },
});
export const KVM_GET_TSC_KHZ = io('KVM_GET_TSC_KHZ', KVMIO, 0xa3, { hasResult: true });
export const KVM_GET_XSAVE = ior('KVM_GET_XSAVE', KVMIO, 0xa4, Xsave);
export const KVM_SET_XSAVE = iow('KVM_SET_XSAVE', KVMIO, 0xa5, Xsave);
export const KVM_GET_XCRS = ior('KVM_GET_XCRS', KVMIO, 0xa6, Xcrs);
export const KVM_SET_XCRS = iow('KVM_SET_XCRS', KVMIO, 0xa7, Xcrs);
export const KVM_KVMCLOCK_CTRL = io('KVM_KVMCLOCK_CTRL', KVMIO, 0xad, {
  hints: { EINVAL: 'the guest has not enabled kvmclock' },
});
export const KVM_GET_SREGS2 = ior('KVM_GET_SREGS2', KVMIO, 0xcc, Sregs2, { since: '5.14' });
export const KVM_SET_SREGS2 = iow('KVM_SET_SREGS2', KVMIO, 0xcd, Sregs2, { since: '5.14' });
export const KVM_GET_XSAVE2 = ior('KVM_GET_XSAVE2', KVMIO, 0xcf, Xsave, { since: '5.17' });

/**
 * linux/kvm.h and asm/kvm.h for the system fd and the VM fd: structures, requests and constants under their C names.
 * The vCPU fd's are in uapi-vcpu.ts, the capabilities in caps.ts. `uapi.test.ts` compares every row with the header.
 */
import { io, ior, iow, iowr } from '../sys/ioctl.js';
import { type StructOf, struct } from '../sys/struct.js';

const KERNEL = 'linux/kvm.h';
const ARCH = 'asm/kvm.h';

export const KVMIO = 0xae;
export const KVM_API_VERSION = 12;

// --- structures of the system fd ---

export const CpuidEntry2 = struct('struct kvm_cpuid_entry2', ARCH, {
  function: 'u32',
  index: 'u32',
  flags: 'u32',
  eax: 'u32',
  ebx: 'u32',
  ecx: 'u32',
  edx: 'u32',
  padding: ['u32', 3],
});
/** One CPUID leaf. `index` is valid if `flags` has KVM_CPUID_FLAG_SIGNIFCANT_INDEX. */
export type CpuidEntry2 = StructOf<typeof CpuidEntry2>;
export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0;

/** Followed by `nent` {@link CpuidEntry2}. */
export const Cpuid2 = struct('struct kvm_cpuid2', ARCH, { nent: 'u32', padding: 'u32' });

/** Followed by `nmsrs` u32. */
export const MsrList = struct('struct kvm_msr_list', ARCH, { nmsrs: 'u32' });

export const MsrEntry = struct('struct kvm_msr_entry', ARCH, {
  index: 'u32',
  reserved: 'u32',
  data: 'u64',
});
export type MsrEntry = StructOf<typeof MsrEntry>;

/** Followed by `nmsrs` {@link MsrEntry}. */
export const Msrs = struct('struct kvm_msrs', ARCH, { nmsrs: 'u32', pad: 'u32' });

// --- structures of the VM fd ---

export const UserspaceMemoryRegion = struct('struct kvm_userspace_memory_region', KERNEL, {
  slot: 'u32',
  flags: 'u32',
  guest_phys_addr: 'u64',
  memory_size: 'u64',
  userspace_addr: 'u64',
});
export const KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
export const KVM_MEM_READONLY = 1 << 1;

export const DirtyLog = struct('struct kvm_dirty_log', KERNEL, {
  slot: 'u32',
  padding1: 'u32',
  dirty_bitmap: 'u64',
});

export const ClearDirtyLog = struct('struct kvm_clear_dirty_log', KERNEL, {
  slot: 'u32',
  num_pages: 'u32',
  first_page: 'u64',
  dirty_bitmap: 'u64',
});
export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0;
export const KVM_DIRTY_LOG_INITIALLY_SET = 1 << 1;

/** An entry of a vCPU's dirty ring. `slot` has the number of the address space in bits 16 to 31. */
export const DirtyGfn = struct('struct kvm_dirty_gfn', KERNEL, { flags: 'u32', slot: 'u32', offset: 'u64' });
export const KVM_DIRTY_GFN_F_DIRTY = 1 << 0;
export const KVM_DIRTY_GFN_F_RESET = 1 << 1;
/** Page of a vCPU's descriptor at which its ring is mapped. */
export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

export const IrqLevel = struct('struct kvm_irq_level', KERNEL, { irq: 'u32', level: 'u32' });

export const Irqchip = struct('struct kvm_irqchip', KERNEL, {
  chip_id: 'u32',
  pad: 'u32',
  chip: ['u8', 512],
});
export const KVM_IRQCHIP_PIC_MASTER = 0;
export const KVM_IRQCHIP_PIC_SLAVE = 1;
export const KVM_IRQCHIP_IOAPIC = 2;
export const KVM_IOAPIC_NUM_PINS = 24;

/** {@link Irqchip}'s `chip` for KVM_IRQCHIP_IOAPIC. */
export const IoapicState = struct('struct kvm_ioapic_state', ARCH, {
  base_address: 'u64',
  ioregsel: 'u32',
  id: 'u32',
  irr: 'u32',
  pad: 'u32',
  redirtbl: ['u64', KVM_IOAPIC_NUM_PINS],
});
export type IoapicState = StructOf<typeof IoapicState>;

/** {@link Irqchip}'s `chip` for the two PICs. */
export const PicState = struct('struct kvm_pic_state', ARCH, {
  last_irr: 'u8',
  irr: 'u8',
  imr: 'u8',
  isr: 'u8',
  priority_add: 'u8',
  irq_base: 'u8',
  read_reg_select: 'u8',
  poll: 'u8',
  special_mask: 'u8',
  init_state: 'u8',
  auto_eoi: 'u8',
  rotate_on_auto_eoi: 'u8',
  special_fully_nested_mode: 'u8',
  init4: 'u8',
  elcr: 'u8',
  elcr_mask: 'u8',
});
export type PicState = StructOf<typeof PicState>;

export const PitConfig = struct('struct kvm_pit_config', KERNEL, { flags: 'u32', pad: ['u32', 15] });
export const KVM_PIT_SPEAKER_DUMMY = 1;

const PitChannelState = struct('struct kvm_pit_channel_state', ARCH, {
  count: 'u32',
  latched_count: 'u16',
  count_latched: 'u8',
  status_latched: 'u8',
  status: 'u8',
  read_state: 'u8',
  write_state: 'u8',
  write_latch: 'u8',
  rw_mode: 'u8',
  mode: 'u8',
  bcd: 'u8',
  gate: 'u8',
  count_load_time: 's64',
});
export const PitState2 = struct('struct kvm_pit_state2', ARCH, {
  channels: [PitChannelState, 3],
  flags: 'u32',
  reserved: ['u32', 9],
});
export type PitState2 = StructOf<typeof PitState2>;

export const IrqRoutingIrqchip = struct('struct kvm_irq_routing_irqchip', KERNEL, {
  irqchip: 'u32',
  pin: 'u32',
});
export const IrqRoutingMsi = struct('struct kvm_irq_routing_msi', KERNEL, {
  address_lo: 'u32',
  address_hi: 'u32',
  data: 'u32',
  devid: 'u32',
});
/** `u` is one of the two above, by `type`. */
export const IrqRoutingEntry = struct('struct kvm_irq_routing_entry', KERNEL, {
  gsi: 'u32',
  type: 'u32',
  flags: 'u32',
  pad: 'u32',
  u: ['u32', 8],
});
/** Followed by `nr` {@link IrqRoutingEntry}. */
export const IrqRouting = struct('struct kvm_irq_routing', KERNEL, { nr: 'u32', flags: 'u32' });
export const KVM_IRQ_ROUTING_IRQCHIP = 1;
export const KVM_IRQ_ROUTING_MSI = 2;

export const Irqfd = struct('struct kvm_irqfd', KERNEL, {
  fd: 'u32',
  gsi: 'u32',
  flags: 'u32',
  resamplefd: 'u32',
  pad: ['u8', 16],
});
export const KVM_IRQFD_FLAG_DEASSIGN = 1 << 0;
export const KVM_IRQFD_FLAG_RESAMPLE = 1 << 1;

export const Ioeventfd = struct('struct kvm_ioeventfd', KERNEL, {
  datamatch: 'u64',
  addr: 'u64',
  len: 'u32',
  fd: 's32',
  flags: 'u32',
  pad: ['u8', 36],
});
export const KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0;
export const KVM_IOEVENTFD_FLAG_PIO = 1 << 1;
export const KVM_IOEVENTFD_FLAG_DEASSIGN = 1 << 2;

export const Msi = struct('struct kvm_msi', KERNEL, {
  address_lo: 'u32',
  address_hi: 'u32',
  data: 'u32',
  flags: 'u32',
  devid: 'u32',
  pad: ['u8', 12],
});

export const CoalescedMmioZone = struct('struct kvm_coalesced_mmio_zone', KERNEL, {
  addr: 'u64',
  size: 'u32',
  pio: 'u32',
});
export const CoalescedMmio = struct('struct kvm_coalesced_mmio', KERNEL, {
  phys_addr: 'u64',
  len: 'u32',
  pio: 'u32',
  data: ['u8', 8],
});
/** Followed by as many {@link CoalescedMmio} as fit in the page. */
export const CoalescedMmioRing = struct('struct kvm_coalesced_mmio_ring', KERNEL, {
  first: 'u32',
  last: 'u32',
});
export const KVM_COALESCED_MMIO_PAGE_OFFSET = 2;

export const ClockData = struct(
  'struct kvm_clock_data',
  KERNEL,
  {
    clock: 'u64',
    flags: 'u32',
    pad0: 'u32',
    realtime: 'u64',
    host_tsc: 'u64',
    pad: ['u32', 4],
  },
  { since: '5.16' },
);
/** `clock` is kvmclock in ns; `flags` tells whether `realtime` (ns) and `host_tsc` are valid. */
export type ClockData = StructOf<typeof ClockData>;
export const KVM_CLOCK_TSC_STABLE = 2;
export const KVM_CLOCK_REALTIME = 1 << 2;
export const KVM_CLOCK_HOST_TSC = 1 << 3;

export const EnableCap = struct('struct kvm_enable_cap', KERNEL, {
  cap: 'u32',
  flags: 'u32',
  args: ['u64', 4],
  pad: ['u8', 64],
});

export const CreateDevice = struct('struct kvm_create_device', KERNEL, {
  type: 'u32',
  fd: 'u32',
  flags: 'u32',
});
export const KVM_CREATE_DEVICE_TEST = 1;
export const KVM_DEV_TYPE_VFIO = 4;

export const DeviceAttr = struct('struct kvm_device_attr', KERNEL, {
  flags: 'u32',
  group: 'u32',
  attr: 'u64',
  addr: 'u64',
});
// Before 6.6: KVM_DEV_VFIO_GROUP, _GROUP_ADD and _GROUP_DEL, with the same values. Since then they accept device files
// as well as groups.
export const KVM_DEV_VFIO_FILE = 1;
export const KVM_DEV_VFIO_FILE_ADD = 1;
export const KVM_DEV_VFIO_FILE_DEL = 2;
export const KVM_DEV_VFIO_GROUP = 1;
export const KVM_DEV_VFIO_GROUP_ADD = 1;
export const KVM_DEV_VFIO_GROUP_DEL = 2;

export const KVM_X86_DISABLE_EXITS_MWAIT = 1 << 0;
export const KVM_X86_DISABLE_EXITS_HLT = 1 << 1;
export const KVM_X86_DISABLE_EXITS_PAUSE = 1 << 2;
export const KVM_X86_DISABLE_EXITS_CSTATE = 1 << 3;
export const KVM_X2APIC_API_USE_32BIT_IDS = 1 << 0;
export const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 1 << 1;

// --- requests of the system fd ---

export const KVM_GET_API_VERSION = io('KVM_GET_API_VERSION', KVMIO, 0x00, {
  hasResult: true,
  hints: { ENOTTY: 'it is not the KVM device, which `ls -l` shows as 10, 232; `modprobe kvm` creates it' },
});
export const KVM_CREATE_VM = io('KVM_CREATE_VM', KVMIO, 0x01, {
  hasResult: true,
  hints: { EBUSY: 'another hypervisor (VirtualBox, VMware) holds the processor’s virtualisation extensions' },
});
export const KVM_GET_MSR_INDEX_LIST = iowr('KVM_GET_MSR_INDEX_LIST', KVMIO, 0x02, MsrList);
export const KVM_CHECK_EXTENSION = io('KVM_CHECK_EXTENSION', KVMIO, 0x03, { hasResult: true });
export const KVM_GET_VCPU_MMAP_SIZE = io('KVM_GET_VCPU_MMAP_SIZE', KVMIO, 0x04, { hasResult: true });
export const KVM_GET_SUPPORTED_CPUID = iowr('KVM_GET_SUPPORTED_CPUID', KVMIO, 0x05, Cpuid2);
export const KVM_GET_EMULATED_CPUID = iowr('KVM_GET_EMULATED_CPUID', KVMIO, 0x09, Cpuid2);
export const KVM_GET_MSR_FEATURE_INDEX_LIST = iowr('KVM_GET_MSR_FEATURE_INDEX_LIST', KVMIO, 0x0a, MsrList);

// --- requests of the VM fd ---

export const KVM_CREATE_VCPU = io('KVM_CREATE_VCPU', KVMIO, 0x41, {
  hasResult: true,
  hints: {
    EEXIST: 'the VM already has a vCPU with this id',
    EINVAL: 'the id is past KVM_CAP_MAX_VCPU_ID, or the VM already has KVM_CAP_MAX_VCPUS',
  },
});
export const KVM_GET_DIRTY_LOG = iow('KVM_GET_DIRTY_LOG', KVMIO, 0x42, DirtyLog, {
  hints: { ENOENT: 'the slot does not exist or does not log dirty pages' },
});
export const KVM_SET_USER_MEMORY_REGION = iow(
  'KVM_SET_USER_MEMORY_REGION',
  KVMIO,
  0x46,
  UserspaceMemoryRegion,
  {
    hints: {
      EEXIST: 'the range overlaps another memory slot',
      EINVAL:
        'addresses and size must be whole pages; a slot keeps its size, host address and read-only flag; slot numbers end at KVM_CAP_NR_MEMSLOTS',
    },
  },
);
export const KVM_SET_TSS_ADDR = io('KVM_SET_TSS_ADDR', KVMIO, 0x47);
export const KVM_SET_IDENTITY_MAP_ADDR = iow('KVM_SET_IDENTITY_MAP_ADDR', KVMIO, 0x48, 8, {
  hints: { EINVAL: 'call it before creating the first vCPU' },
});
export const KVM_CREATE_IRQCHIP = io('KVM_CREATE_IRQCHIP', KVMIO, 0x60, {
  hints: {
    EEXIST: 'the VM already has an interrupt controller',
    EINVAL: 'create it before creating the first vCPU',
  },
});
export const KVM_IRQ_LINE = iow('KVM_IRQ_LINE', KVMIO, 0x61, IrqLevel, {
  hints: { ENXIO: 'the VM has no in-kernel IOAPIC' },
});
export const KVM_GET_IRQCHIP = iowr('KVM_GET_IRQCHIP', KVMIO, 0x62, Irqchip, {
  hints: { ENXIO: 'the VM has no in-kernel IOAPIC and PIC' },
});
export const KVM_SET_IRQCHIP = ior('KVM_SET_IRQCHIP', KVMIO, 0x63, Irqchip, {
  hints: { ENXIO: 'the VM has no in-kernel IOAPIC and PIC' },
});
export const KVM_REGISTER_COALESCED_MMIO = iow('KVM_REGISTER_COALESCED_MMIO', KVMIO, 0x67, CoalescedMmioZone);
export const KVM_UNREGISTER_COALESCED_MMIO = iow(
  'KVM_UNREGISTER_COALESCED_MMIO',
  KVMIO,
  0x68,
  CoalescedMmioZone,
);
export const KVM_SET_GSI_ROUTING = iow('KVM_SET_GSI_ROUTING', KVMIO, 0x6a, IrqRouting, {
  hints: {
    EINVAL:
      'create an interrupt controller first; GSIs end at KVM_CAP_IRQ_ROUTING; the split irqchip routes only MSIs',
  },
});
export const KVM_IRQFD = iow('KVM_IRQFD', KVMIO, 0x76, Irqfd, {
  hints: {
    EBUSY: 'this eventfd is already bound to an interrupt',
    EINVAL: 'the fd must be an eventfd, and the VM must have an in-kernel interrupt controller',
  },
});
export const KVM_CREATE_PIT2 = iow('KVM_CREATE_PIT2', KVMIO, 0x77, PitConfig, {
  hints: {
    EEXIST: 'the VM already has a PIT',
    ENOENT: 'create the full in-kernel irqchip first',
  },
});
export const KVM_IOEVENTFD = iow('KVM_IOEVENTFD', KVMIO, 0x79, Ioeventfd, {
  hints: {
    EEXIST: 'the address is already bound with this value or with any',
    ENOENT: 'the address is not bound with this length and value',
    ENOSPC: 'the VM’s I/O bus is full',
  },
});
export const KVM_SET_CLOCK = iow('KVM_SET_CLOCK', KVMIO, 0x7b, ClockData, { since: '5.16' });
export const KVM_GET_CLOCK = ior('KVM_GET_CLOCK', KVMIO, 0x7c, ClockData, { since: '5.16' });
export const KVM_GET_PIT2 = ior('KVM_GET_PIT2', KVMIO, 0x9f, PitState2);
export const KVM_SET_PIT2 = iow('KVM_SET_PIT2', KVMIO, 0xa0, PitState2);
export const KVM_SIGNAL_MSI = iow('KVM_SIGNAL_MSI', KVMIO, 0xa5, Msi, {
  hasResult: true,
  hints: { EINVAL: 'the VM has no in-kernel local APICs, or the address is not theirs' },
});
/** For the VM fd and the vCPU fd; api.rst lists which of them takes a capability. */
export const KVM_ENABLE_CAP = iow('KVM_ENABLE_CAP', KVMIO, 0xa3, EnableCap);
export const KVM_CLEAR_DIRTY_LOG = iowr('KVM_CLEAR_DIRTY_LOG', KVMIO, 0xc0, ClearDirtyLog, {
  hints: {
    EINVAL:
      'first page and count must be multiples of 64, unless the range ends with the slot; enable KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 first',
    ENXIO: 'a VM with dirty rings has no bitmaps',
  },
});
/** Returns how many entries it reset. */
export const KVM_RESET_DIRTY_RINGS = io('KVM_RESET_DIRTY_RINGS', KVMIO, 0xc7, {
  hasResult: true,
  hints: { EINVAL: 'enable KVM_CAP_DIRTY_LOG_RING first' },
});
export const KVM_CREATE_DEVICE = iowr('KVM_CREATE_DEVICE', KVMIO, 0xe0, CreateDevice, {
  hints: {
    EBUSY: 'the VM already has its only device of this type',
    ENODEV: 'this kernel is built without the device type (CONFIG_KVM_VFIO for kvm-vfio)',
  },
});

// --- requests of a KVM device's fd ---

export const KVM_SET_DEVICE_ATTR = iow('KVM_SET_DEVICE_ATTR', KVMIO, 0xe1, DeviceAttr);
export const KVM_GET_DEVICE_ATTR = iow('KVM_GET_DEVICE_ATTR', KVMIO, 0xe2, DeviceAttr);
export const KVM_HAS_DEVICE_ATTR = iow('KVM_HAS_DEVICE_ATTR', KVMIO, 0xe3, DeviceAttr);

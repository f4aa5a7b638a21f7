/**
 * asm/bootparam.h: the interface between a boot loader and the kernel's 64-bit entry. `bootparam.test.ts` compares
 * every row with the header. @see Documentation/arch/x86/boot.rst
 */
import { type StructOf, struct } from '../../sys/struct.js';

const HEADER = 'asm/bootparam.h';
const packed = { packed: true } as const;

/** Located at {@link BootParams}'s offset of `hdr`, both in the file and in boot_params. */
export const SetupHeader = struct(
  'struct setup_header',
  HEADER,
  {
    setup_sects: 'u8',
    root_flags: 'u16',
    syssize: 'u32',
    ram_size: 'u16',
    vid_mode: 'u16',
    root_dev: 'u16',
    boot_flag: 'u16',
    jump: 'u16',
    header: 'u32',
    version: 'u16',
    realmode_swtch: 'u32',
    start_sys_seg: 'u16',
    kernel_version: 'u16',
    type_of_loader: 'u8',
    loadflags: 'u8',
    setup_move_size: 'u16',
    code32_start: 'u32',
    ramdisk_image: 'u32',
    ramdisk_size: 'u32',
    bootsect_kludge: 'u32',
    heap_end_ptr: 'u16',
    ext_loader_ver: 'u8',
    ext_loader_type: 'u8',
    cmd_line_ptr: 'u32',
    initrd_addr_max: 'u32',
    kernel_alignment: 'u32',
    relocatable_kernel: 'u8',
    min_alignment: 'u8',
    xloadflags: 'u16',
    cmdline_size: 'u32',
    hardware_subarch: 'u32',
    hardware_subarch_data: 'u64',
    payload_offset: 'u32',
    payload_length: 'u32',
    setup_data: 'u64',
    pref_address: 'u64',
    init_size: 'u32',
    handover_offset: 'u32',
    kernel_info_offset: 'u32',
  },
  { packed: true, since: '5.5' },
);
export type SetupHeader = StructOf<typeof SetupHeader>;

// loadflags
export const LOADED_HIGH = 1 << 0;
// xloadflags
export const XLF_KERNEL_64 = 1 << 0;
export const XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1;

export const BootE820Entry = struct(
  'struct boot_e820_entry',
  HEADER,
  { addr: 'u64', size: 'u64', type: 'u32' },
  packed,
);
export const E820_MAX_ENTRIES_ZEROPAGE = 128;

const SETUP_HEADER_AT = 0x1f1;
const EDD_MBR_SIG_BUFFER_AT = 0x290;
const EDD_INFO_BYTES = 492;

/** The "zero page". Members that a machine without BIOS leaves zero are plain bytes here. */
export const BootParams = struct(
  'struct boot_params',
  HEADER,
  {
    screen_info: ['u8', 64],
    apm_bios_info: ['u8', 20],
    _pad2: ['u8', 4],
    tboot_addr: 'u64',
    ist_info: ['u8', 16],
    acpi_rsdp_addr: 'u64',
    _pad3: ['u8', 8],
    hd0_info: ['u8', 16],
    hd1_info: ['u8', 16],
    sys_desc_table: ['u8', 16],
    olpc_ofw_header: ['u8', 16],
    ext_ramdisk_image: 'u32',
    ext_ramdisk_size: 'u32',
    ext_cmd_line_ptr: 'u32',
    _pad4: ['u8', 112],
    cc_blob_address: 'u32',
    edid_info: ['u8', 128],
    efi_info: ['u8', 32],
    alt_mem_k: 'u32',
    scratch: 'u32',
    e820_entries: 'u8',
    eddbuf_entries: 'u8',
    edd_mbr_sig_buf_entries: 'u8',
    kbd_status: 'u8',
    secure_boot: 'u8',
    _pad5: ['u8', 2],
    sentinel: 'u8',
    _pad6: ['u8', 1],
    hdr: SetupHeader,
    _pad7: ['u8', EDD_MBR_SIG_BUFFER_AT - SETUP_HEADER_AT - SetupHeader.size],
    edd_mbr_sig_buffer: ['u32', 16],
    e820_table: [BootE820Entry, E820_MAX_ENTRIES_ZEROPAGE],
    _pad8: ['u8', 48],
    eddbuf: ['u8', EDD_INFO_BYTES],
    _pad9: ['u8', 276],
  },
  { packed: true, since: '5.19' },
);

/** ACPI's static tables, with the field names of Linux and ACPICA (include/acpi/actbl*.h). */
import { type Fields, type Layout, type StructValue, struct } from '../../../sys/struct.js';

const ACTBL = 'acpi/actbl.h';
const ACTBL2 = 'acpi/actbl2.h';
const packed = { packed: true } as const;

export const Rsdp = struct(
  'struct acpi_table_rsdp',
  ACTBL,
  {
    signature: ['u8', 8],
    checksum: 'u8',
    oem_id: ['u8', 6],
    revision: 'u8',
    rsdt_physical_address: 'u32',
    length: 'u32',
    xsdt_physical_address: 'u64',
    extended_checksum: 'u8',
    reserved: ['u8', 3],
  },
  packed,
);
/** The checksum of ACPI 1.0 covers only these bytes. */
export const RSDP_V1_BYTES = 20;

export const TableHeader = struct(
  'struct acpi_table_header',
  ACTBL,
  {
    signature: ['u8', 4],
    length: 'u32',
    revision: 'u8',
    checksum: 'u8',
    oem_id: ['u8', 6],
    oem_table_id: ['u8', 8],
    oem_revision: 'u32',
    asl_compiler_id: ['u8', 4],
    asl_compiler_revision: 'u32',
  },
  packed,
);

export const GenericAddress = struct(
  'struct acpi_generic_address',
  ACTBL,
  { space_id: 'u8', bit_width: 'u8', bit_offset: 'u8', access_width: 'u8', address: 'u64' },
  packed,
);
export const ACPI_ADR_SPACE_SYSTEM_IO = 1;

export const Facs = struct(
  'struct acpi_table_facs',
  ACTBL,
  {
    signature: ['u8', 4],
    length: 'u32',
    hardware_signature: 'u32',
    firmware_waking_vector: 'u32',
    global_lock: 'u32',
    flags: 'u32',
    xfirmware_waking_vector: 'u64',
    version: 'u8',
    reserved: ['u8', 3],
    ospm_flags: 'u32',
    reserved1: ['u8', 24],
  },
  packed,
);

/** The part after the header. */
export const Fadt = struct(
  'struct acpi_table_fadt',
  ACTBL,
  {
    facs: 'u32',
    dsdt: 'u32',
    model: 'u8',
    preferred_profile: 'u8',
    sci_interrupt: 'u16',
    smi_command: 'u32',
    acpi_enable: 'u8',
    acpi_disable: 'u8',
    s4_bios_request: 'u8',
    pstate_control: 'u8',
    pm1a_event_block: 'u32',
    pm1b_event_block: 'u32',
    pm1a_control_block: 'u32',
    pm1b_control_block: 'u32',
    pm2_control_block: 'u32',
    pm_timer_block: 'u32',
    gpe0_block: 'u32',
    gpe1_block: 'u32',
    pm1_event_length: 'u8',
    pm1_control_length: 'u8',
    pm2_control_length: 'u8',
    pm_timer_length: 'u8',
    gpe0_block_length: 'u8',
    gpe1_block_length: 'u8',
    gpe1_base: 'u8',
    cst_control: 'u8',
    c2_latency: 'u16',
    c3_latency: 'u16',
    flush_size: 'u16',
    flush_stride: 'u16',
    duty_offset: 'u8',
    duty_width: 'u8',
    day_alarm: 'u8',
    month_alarm: 'u8',
    century: 'u8',
    boot_flags: 'u16',
    reserved: 'u8',
    flags: 'u32',
    reset_register: GenericAddress,
    reset_value: 'u8',
    arm_boot_flags: 'u16',
    minor_revision: 'u8',
    Xfacs: 'u64',
    Xdsdt: 'u64',
    xpm1a_event_block: GenericAddress,
    xpm1b_event_block: GenericAddress,
    xpm1a_control_block: GenericAddress,
    xpm1b_control_block: GenericAddress,
    xpm2_control_block: GenericAddress,
    xpm_timer_block: GenericAddress,
    xgpe0_block: GenericAddress,
    xgpe1_block: GenericAddress,
    sleep_control: GenericAddress,
    sleep_status: GenericAddress,
    hypervisor_id: 'u64',
  },
  packed,
);

// boot_flags
export const ACPI_FADT_LEGACY_DEVICES = 1 << 0;
export const ACPI_FADT_8042 = 1 << 1;
export const ACPI_FADT_NO_VGA = 1 << 2;
// flags
export const ACPI_FADT_WBINVD = 1 << 0;
export const ACPI_FADT_C1_SUPPORTED = 1 << 2;
export const ACPI_FADT_SLEEP_BUTTON = 1 << 5;
export const ACPI_FADT_FIXED_RTC = 1 << 6;
export const ACPI_FADT_32BIT_TIMER = 1 << 8;
export const ACPI_FADT_RESET_REGISTER = 1 << 10;

/** The part after the header. */
export const Madt = struct('struct acpi_table_madt', ACTBL2, { address: 'u32', flags: 'u32' }, packed);
export const ACPI_MADT_PCAT_COMPAT = 1;

const subtable = { type: 'u8', length: 'u8' } as const;
export const MadtLocalApic = struct(
  'struct acpi_madt_local_apic',
  ACTBL2,
  { ...subtable, processor_id: 'u8', id: 'u8', lapic_flags: 'u32' },
  packed,
);
export const ACPI_MADT_TYPE_LOCAL_APIC = 0;
export const ACPI_MADT_ENABLED = 1;
export const MadtIoApic = struct(
  'struct acpi_madt_io_apic',
  ACTBL2,
  { ...subtable, id: 'u8', reserved: 'u8', address: 'u32', global_irq_base: 'u32' },
  packed,
);
export const ACPI_MADT_TYPE_IO_APIC = 1;
export const MadtInterruptOverride = struct(
  'struct acpi_madt_interrupt_override',
  ACTBL2,
  { ...subtable, bus: 'u8', source_irq: 'u8', global_irq: 'u32', inti_flags: 'u16' },
  packed,
);
export const ACPI_MADT_TYPE_INTERRUPT_OVERRIDE = 2;
export const ACPI_MADT_POLARITY_ACTIVE_HIGH = 1;
export const ACPI_MADT_TRIGGER_LEVEL = 3 << 2;
export const MadtLocalApicNmi = struct(
  'struct acpi_madt_local_apic_nmi',
  ACTBL2,
  { ...subtable, processor_id: 'u8', inti_flags: 'u16', lint: 'u8' },
  packed,
);
export const ACPI_MADT_TYPE_LOCAL_APIC_NMI = 4;

export const McfgAllocation = struct(
  'struct acpi_mcfg_allocation',
  ACTBL2,
  {
    address: 'u64',
    pci_segment: 'u16',
    start_bus_number: 'u8',
    end_bus_number: 'u8',
    reserved: 'u32',
  },
  packed,
);
/** Between the header and the first allocation. */
export const MCFG_RESERVED_BYTES = 8;

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);
export const OEM_ID = ascii('TSVISR');

/** Encodes a MADT structure with its type and length. */
export function madtEntry<F extends Fields>(layout: Layout<F>, type: number, values: object): Uint8Array {
  return layout.encode({ ...values, type, length: layout.size } as unknown as Partial<StructValue<F>>);
}

/** The byte that makes the sum of all bytes 0. */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

/** Builds a table: header with checksum, and body. @param signature four letters */
export function table(signature: string, revision: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, TableHeader.size);
  const bytes = TableHeader.encode(
    {
      signature: ascii(signature),
      length,
      revision,
      oem_id: OEM_ID,
      oem_table_id: ascii('TSVISOR '),
      oem_revision: 1,
      asl_compiler_id: ascii('TSVR'),
      asl_compiler_revision: 1,
    },
    length - TableHeader.size,
  );
  let at = TableHeader.size;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  bytes[TableHeader.offsets.checksum] = checksum(bytes);
  return bytes;
}

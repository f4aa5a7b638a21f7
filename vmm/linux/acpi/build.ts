/** Builds the ACPI tables of a machine, laid out in guest memory. */
import {
  ACPI_PM_PORT,
  ACPI_RESET_VALUE,
  ACPI_SCI_GSI,
  PM_GPE0_BLOCK,
  PM_GPE0_BYTES,
  PM_RESET,
  PM_TIMER,
  PM1_CONTROL,
  PM1_CONTROL_BYTES,
  PM1_EVENT,
  PM1_EVENT_BYTES,
} from '../../../devices/platform/acpi-pm.js';
import { RTC_CENTURY } from '../../../devices/platform/rtc.js';
import { alignUp } from '../../../sys/address.js';
import { TIMER_GSI } from '../../layout.js';
import { buildDsdt, type DsdtOptions } from './dsdt.js';
import * as t from './tables.js';

/** Addresses of the local APICs and the first I/O APIC; fixed in KVM. */
export const LOCAL_APIC_BASE = 0xfee0_0000;
export const IO_APIC_BASE = 0xfec0_0000;
const ISA_BUS = 0;
const ISA_TIMER_IRQ = 0;
const ALL_PROCESSORS = 0xff;
const LINT1 = 1;
/** More processors need x2APIC entries. */
const MOST_XAPIC_IDS = 255;

export interface AcpiOptions extends DsdtOptions {
  /** Guest physical address of the first table; a multiple of 64. */
  readonly base: bigint;
  /** Number of processors, with APIC ids from 0. */
  readonly vcpus: number;
}

/** Tables to copy to `base`. */
export interface AcpiTables {
  /** Guest physical address of the RSDP, from which all other tables are found. */
  readonly rsdp: bigint;
  readonly base: bigint;
  readonly bytes: Uint8Array;
  /** By signature; includes DSDT, FACS and RSDP. */
  readonly tables: ReadonlyMap<string, Uint8Array>;
}

/** @throws RangeError for more processors than xAPIC entries can address */
export function buildAcpi(options: AcpiOptions): AcpiTables {
  if (options.vcpus > MOST_XAPIC_IDS) throw new RangeError(`${options.vcpus} processors are too many`);
  const { base, tables, place, bytes } = layOut(options.base);
  const rsdp = place('RSDP', new Uint8Array(t.Rsdp.size)); // filled in once the XSDT's address is known
  const facs = place('FACS', facsBytes());
  const dsdt = place('DSDT', t.table('DSDT', 2, buildDsdt(options)));
  const listed = [
    place('FACP', t.table('FACP', 6, fadt(facs, dsdt, options.hasI8042))),
    place('APIC', madt(options.vcpus)),
    place('MCFG', mcfg(options)),
  ];
  const xsdt = place('XSDT', t.table('XSDT', 1, new Uint8Array(new BigUint64Array(listed).buffer)));
  (tables.get('RSDP') as Uint8Array).set(rsdpBytes(xsdt));
  return { rsdp, base, bytes: bytes(), tables };
}

/** Places tables consecutively at multiples of 64, which the FACS requires. */
function layOut(base: bigint) {
  const tables = new Map<string, Uint8Array>();
  const places: { at: bigint; bytes: Uint8Array }[] = [];
  let end = base;
  const place = (signature: string, bytes: Uint8Array): bigint => {
    const at = alignUp(end, 64n);
    places.push({ at, bytes });
    tables.set(signature, bytes);
    end = at + BigInt(bytes.length);
    return at;
  };
  const bytes = (): Uint8Array => {
    const all = new Uint8Array(Number(end - base));
    for (const part of places) all.set(part.bytes, Number(part.at - base));
    return all;
  };
  return { base, tables, place, bytes };
}

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

function rsdpBytes(xsdt: bigint): Uint8Array {
  const bytes = t.Rsdp.encode({
    signature: ascii('RSD PTR '),
    oem_id: t.OEM_ID,
    revision: 2,
    length: t.Rsdp.size,
    xsdt_physical_address: xsdt,
  });
  bytes[t.Rsdp.offsets.checksum] = t.checksum(bytes.subarray(0, t.RSDP_V1_BYTES));
  bytes[t.Rsdp.offsets.extended_checksum] = t.checksum(bytes);
  return bytes;
}

/** Has no table header: the guest writes to it. */
const facsBytes = (): Uint8Array =>
  t.Facs.encode({ signature: ascii('FACS'), length: t.Facs.size, version: 2 });

const ACCESS_BY_SIZE = [0, 1, 2, 2, 3] as const;
/** Ports as a generic address; `access` is the width of one register. */
const ports = (offset: number, bytes: number, access = bytes) => ({
  space_id: t.ACPI_ADR_SPACE_SYSTEM_IO,
  bit_width: bytes * 8,
  bit_offset: 0,
  access_width: ACCESS_BY_SIZE[access] ?? 0,
  address: BigInt(ACPI_PM_PORT + offset),
});

const DESKTOP = 1;
const PM_TIMER_BYTES = 4;
/** Larger than the specification's limits: C2 and C3 are not supported. */
const NO_C2_LATENCY = 0x0fff;
const NO_C3_LATENCY = 0x0fff;

/** The fixed hardware. There is no SMI command: the machine starts in ACPI mode. */
function fadt(facs: bigint, dsdt: bigint, hasI8042: boolean): Uint8Array {
  return t.Fadt.encode({
    facs: Number(facs),
    dsdt: Number(dsdt),
    Xdsdt: dsdt,
    preferred_profile: DESKTOP,
    sci_interrupt: ACPI_SCI_GSI,
    pm1a_event_block: ACPI_PM_PORT + PM1_EVENT,
    pm1a_control_block: ACPI_PM_PORT + PM1_CONTROL,
    pm_timer_block: ACPI_PM_PORT + PM_TIMER,
    gpe0_block: ACPI_PM_PORT + PM_GPE0_BLOCK,
    pm1_event_length: PM1_EVENT_BYTES,
    pm1_control_length: PM1_CONTROL_BYTES,
    pm_timer_length: PM_TIMER_BYTES,
    gpe0_block_length: PM_GPE0_BYTES,
    c2_latency: NO_C2_LATENCY,
    c3_latency: NO_C3_LATENCY,
    century: RTC_CENTURY,
    boot_flags: t.ACPI_FADT_LEGACY_DEVICES | t.ACPI_FADT_NO_VGA | (hasI8042 ? t.ACPI_FADT_8042 : 0),
    // The power button is fixed hardware (flag clear), there is no sleep button, and the RTC wakes nothing.
    flags:
      t.ACPI_FADT_WBINVD |
      t.ACPI_FADT_C1_SUPPORTED |
      t.ACPI_FADT_SLEEP_BUTTON |
      t.ACPI_FADT_FIXED_RTC |
      t.ACPI_FADT_32BIT_TIMER |
      t.ACPI_FADT_RESET_REGISTER,
    reset_register: ports(PM_RESET, 1),
    reset_value: ACPI_RESET_VALUE,
    minor_revision: 3,
    xpm1a_event_block: ports(PM1_EVENT, PM1_EVENT_BYTES, 2),
    xpm1a_control_block: ports(PM1_CONTROL, PM1_CONTROL_BYTES),
    xpm_timer_block: ports(PM_TIMER, PM_TIMER_BYTES),
    xgpe0_block: ports(PM_GPE0_BLOCK, PM_GPE0_BYTES, 1),
  });
}

function madt(vcpus: number): Uint8Array {
  const processors = Array.from({ length: vcpus }, (_, id) =>
    t.madtEntry(t.MadtLocalApic, t.ACPI_MADT_TYPE_LOCAL_APIC, {
      processor_id: id,
      id,
      lapic_flags: t.ACPI_MADT_ENABLED,
    }),
  );
  const override = (source_irq: number, global_irq: number, inti_flags: number) =>
    t.madtEntry(t.MadtInterruptOverride, t.ACPI_MADT_TYPE_INTERRUPT_OVERRIDE, {
      bus: ISA_BUS,
      source_irq,
      global_irq,
      inti_flags,
    });
  return t.table(
    'APIC',
    5,
    t.Madt.encode({ address: LOCAL_APIC_BASE, flags: t.ACPI_MADT_PCAT_COMPAT }),
    ...processors,
    t.madtEntry(t.MadtIoApic, t.ACPI_MADT_TYPE_IO_APIC, { id: 0, address: IO_APIC_BASE, global_irq_base: 0 }),
    override(ISA_TIMER_IRQ, TIMER_GSI, 0),
    override(ACPI_SCI_GSI, ACPI_SCI_GSI, t.ACPI_MADT_TRIGGER_LEVEL | t.ACPI_MADT_POLARITY_ACTIVE_HIGH),
    t.madtEntry(t.MadtLocalApicNmi, t.ACPI_MADT_TYPE_LOCAL_APIC_NMI, {
      processor_id: ALL_PROCESSORS,
      inti_flags: 0,
      lint: LINT1,
    }),
  );
}

function mcfg({ ecam, buses }: AcpiOptions): Uint8Array {
  const allocation = {
    address: ecam.base,
    pci_segment: 0,
    start_bus_number: 0,
    end_bus_number: buses - 1,
  };
  return t.table('MCFG', 1, new Uint8Array(t.MCFG_RESERVED_BYTES), t.McfgAllocation.encode(allocation));
}

/**
 * The MP table: processors and interrupt pins for kernels that do not use ACPI's (`acpi=off`, `pci=noacpi`). Without it,
 * such a Linux runs one processor, and with `pci=noacpi` takes no interrupt of the PICs: it disables the local APIC for a
 * moment, which masks LINT0, and leaves it masked.
 * @see Intel MultiProcessor Specification 1.4; the names are Linux's (arch/x86/include/asm/mpspec_def.h)
 */
import { ACPI_SCI_GSI } from '../../devices/platform/acpi-pm.js';
import { struct } from '../../sys/struct.js';
import { TIMER_GSI } from '../layout.js';
import { IO_APIC_BASE, LOCAL_APIC_BASE } from './acpi/build.js';
import { intxGsi, PINS, SLOTS } from './acpi/dsdt.js';
import { checksum } from './acpi/tables.js';

const HEADER = 'asm/mpspec_def.h';
const packed = { packed: true } as const;

export const MpfIntel = struct(
  'struct mpf_intel',
  HEADER,
  {
    signature: ['u8', 4],
    physptr: 'u32',
    length: 'u8',
    specification: 'u8',
    checksum: 'u8',
    feature: ['u8', 5],
  },
  packed,
);
export const MpcTable = struct(
  'struct mpc_table',
  HEADER,
  {
    signature: ['u8', 4],
    length: 'u16',
    spec: 'u8',
    checksum: 'u8',
    oem: ['u8', 8],
    productid: ['u8', 12],
    oemptr: 'u32',
    oemsize: 'u16',
    oemcount: 'u16',
    lapic: 'u32',
    reserved: 'u32',
  },
  packed,
);
export const MpcCpu = struct(
  'struct mpc_cpu',
  HEADER,
  {
    type: 'u8',
    apicid: 'u8',
    apicver: 'u8',
    cpuflag: 'u8',
    cpufeature: 'u32',
    featureflag: 'u32',
    reserved: ['u32', 2],
  },
  packed,
);
export const MpcBus = struct(
  'struct mpc_bus',
  HEADER,
  { type: 'u8', busid: 'u8', bustype: ['u8', 6] },
  packed,
);
export const MpcIoapic = struct(
  'struct mpc_ioapic',
  HEADER,
  { type: 'u8', apicid: 'u8', apicver: 'u8', flags: 'u8', apicaddr: 'u32' },
  packed,
);
export const MpcIntsrc = struct(
  'struct mpc_intsrc',
  HEADER,
  {
    type: 'u8',
    irqtype: 'u8',
    irqflag: 'u16',
    srcbus: 'u8',
    srcbusirq: 'u8',
    dstapic: 'u8',
    dstirq: 'u8',
  },
  packed,
);
export const MpcLintsrc = struct(
  'struct mpc_lintsrc',
  HEADER,
  {
    type: 'u8',
    irqtype: 'u8',
    irqflag: 'u16',
    srcbusid: 'u8',
    srcbusirq: 'u8',
    destapic: 'u8',
    destapiclint: 'u8',
  },
  packed,
);

export const MP_PROCESSOR = 0;
export const MP_BUS = 1;
export const MP_IOAPIC = 2;
export const MP_INTSRC = 3;
export const MP_LINTSRC = 4;

const CPU_ENABLED = 1;
const CPU_BOOTPROCESSOR = 2;
/** Family 6, with the FPU and the APIC: CPUID says the rest. */
const CPU_FEATURE = 0x600;
const FEATURE_FLAG = 0x201;
const MPC_APIC_USABLE = 1;
const LOCAL_APIC_VERSION = 0x14;
const IO_APIC_VERSION = 0x11;
const IO_APIC_ID = 0;

const MP_INT = 0;
const MP_NMI = 1;
const MP_EXTINT = 3;
/** Polarity and trigger mode as usual on the bus. */
const MP_IRQ_CONFORMS = 0;
const MP_IRQPOL_ACTIVE_HIGH = 1;
const MP_IRQTRIG_LEVEL = 3 << 2;

const ISA_IRQS = 16;
const ISA_TIMER_IRQ = 0;
const ISA_CASCADE_IRQ = 2;
const ALL_APICS = 0xff;
const SPEC_1_4 = 4;

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

export interface MpTableOptions {
  /** Guest physical address of the floating pointer; a multiple of 16, where guests look for it. */
  readonly base: bigint;
  /** Number of processors, with APIC ids from 0. */
  readonly vcpus: number;
  /** Number of PCI buses, from bus 0. */
  readonly buses: number;
  /** I/O APIC pins of PCI's INTA# to INTD#, swizzled by slot. */
  readonly intxGsis: readonly number[];
}

/** The floating pointer and the table that it points to, to copy to `base`. */
export function buildMpTable(options: MpTableOptions): Uint8Array {
  const entries = [
    ...processors(options.vcpus),
    ...buses(options.buses),
    MpcIoapic.encode({
      type: MP_IOAPIC,
      apicid: IO_APIC_ID,
      apicver: IO_APIC_VERSION,
      flags: MPC_APIC_USABLE,
      apicaddr: IO_APIC_BASE,
    }),
    ...isaInterrupts(options.buses),
    ...pciInterrupts(options.intxGsis),
    ...localInterrupts(options.buses),
  ];
  const length = entries.reduce((sum, entry) => sum + entry.length, MpcTable.size);
  const pointer = MpfIntel.encode({
    signature: ascii('_MP_'),
    physptr: Number(options.base) + MpfIntel.size,
    length: 1, // in units of 16 bytes
    specification: SPEC_1_4,
  });
  pointer[MpfIntel.offsets.checksum] = checksum(pointer);
  const table = Buffer.concat([
    MpcTable.encode({
      signature: ascii('PCMP'),
      length,
      spec: SPEC_1_4,
      oem: ascii('TSVISOR '),
      productid: ascii('PC          '),
      oemcount: entries.length,
      lapic: LOCAL_APIC_BASE,
    }),
    ...entries,
  ]);
  table[MpcTable.offsets.checksum] = checksum(table);
  return Buffer.concat([pointer, table]);
}

const processors = (vcpus: number): Uint8Array[] =>
  Array.from({ length: vcpus }, (_, apicid) =>
    MpcCpu.encode({
      type: MP_PROCESSOR,
      apicid,
      apicver: LOCAL_APIC_VERSION,
      cpuflag: CPU_ENABLED | (apicid === 0 ? CPU_BOOTPROCESSOR : 0),
      cpufeature: CPU_FEATURE,
      featureflag: FEATURE_FLAG,
    }),
  );

/** PCI buses have their own numbers; the ISA bus has the next one. */
const buses = (count: number): Uint8Array[] => [
  ...Array.from({ length: count }, (_, busid) =>
    MpcBus.encode({ type: MP_BUS, busid, bustype: ascii('PCI   ') }),
  ),
  MpcBus.encode({ type: MP_BUS, busid: count, bustype: ascii('ISA   ') }),
];

/** As the MADT has them: the timer at its own pin, the SCI level-triggered. */
function isaInterrupts(isaBus: number): Uint8Array[] {
  const irqs = Array.from({ length: ISA_IRQS }, (_, irq) => irq).filter((irq) => irq !== ISA_CASCADE_IRQ);
  return irqs.map((irq) =>
    MpcIntsrc.encode({
      type: MP_INTSRC,
      irqtype: MP_INT,
      irqflag: irq === ACPI_SCI_GSI ? MP_IRQPOL_ACTIVE_HIGH | MP_IRQTRIG_LEVEL : MP_IRQ_CONFORMS,
      srcbus: isaBus,
      srcbusirq: irq,
      dstapic: IO_APIC_ID,
      dstirq: irq === ISA_TIMER_IRQ ? TIMER_GSI : irq,
    }),
  );
}

/** As _PRT has them, of bus 0. */
const pciInterrupts = (gsis: readonly number[]): Uint8Array[] =>
  Array.from({ length: SLOTS * PINS }, (_, i) => {
    const [slot, pin] = [Math.floor(i / PINS), i % PINS];
    return MpcIntsrc.encode({
      type: MP_INTSRC,
      irqtype: MP_INT,
      irqflag: MP_IRQ_CONFORMS,
      srcbus: 0,
      srcbusirq: (slot << 2) | pin,
      dstapic: IO_APIC_ID,
      dstirq: intxGsi(gsis, slot, pin + 1),
    });
  });

/** LINT0 takes the PICs' interrupts, on the boot processor; LINT1 is the NMI, on all. @see firmwareLapic */
const localInterrupts = (isaBus: number): Uint8Array[] => [
  MpcLintsrc.encode({ type: MP_LINTSRC, irqtype: MP_EXTINT, srcbusid: isaBus, destapic: 0, destapiclint: 0 }),
  MpcLintsrc.encode({
    type: MP_LINTSRC,
    irqtype: MP_NMI,
    srcbusid: isaBus,
    destapic: ALL_APICS,
    destapiclint: 1,
  }),
];

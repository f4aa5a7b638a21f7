/** The DSDT: AML that describes the devices a guest cannot enumerate. */
import { ACPI_S5_SLEEP_TYPE } from '../../../devices/platform/acpi-pm.js';
import { GENERATION_ID_GPE } from '../../../devices/platform/generation-id.js';
import {
  ACPI_NOTIFY_DEVICE_CHECK,
  ACPI_NOTIFY_EJECT_REQUEST,
  PCI_HOTPLUG_DOWN,
  PCI_HOTPLUG_EJECT,
  PCI_HOTPLUG_GPE,
  PCI_HOTPLUG_PORT,
  PCI_HOTPLUG_PORTS,
  PCI_HOTPLUG_STATUS,
  PCI_HOTPLUG_UP,
} from '../../../devices/platform/pci-hotplug.js';
import { RTC_PORT, RTC_PORTS } from '../../../devices/platform/rtc.js';
import { COM_PORTS, SERIAL_PORTS } from '../../../devices/serial.js';
import * as aml from './aml.js';
import * as resources from './resources.js';

const PCI_CONFIG_PORT = 0xcf8;
const PCI_CONFIG_PORTS = 8;
export const SLOTS = 32;
export const PINS = 4;

/** An address range that the PCI host bridge forwards. */
export interface PciWindow {
  readonly kind: 'mmio' | 'pio';
  readonly base: bigint;
  readonly bytes: bigint;
}

/** What the DSDT describes. */
export interface DsdtOptions {
  readonly windows: readonly PciWindow[];
  readonly ecam: { readonly base: bigint; readonly bytes: bigint };
  /** Number of PCI buses, from bus 0. Linux scans each of them, so declare only those that can exist. */
  readonly buses: number;
  /** I/O APIC pins of slot 0's INTA# to INTD#; each further slot starts one pin later. */
  readonly intxGsis: readonly number[];
  /** Numbers of the serial ports to declare, 0 for COM1. */
  readonly serialPorts: readonly number[];
  /** Whether to declare a keyboard controller. */
  readonly hasI8042: boolean;
  /** Guest physical address of the generation ID. */
  readonly generationId: bigint;
}

/** Builds the DSDT's terms, without the table header. */
export function buildDsdt(options: DsdtOptions): aml.Aml {
  return aml.concat(
    aml.scope('\\_SB', pciHost(options), motherboard(options), generationId(options), ...isaDevices(options)),
    hotplugEvents(),
    generationEvent(),
    sleepState5(),
  );
}

/** Values for PM1a and PM1b control; there is no PM1b. */
const sleepState5 = (): aml.Aml => {
  const [type, none] = [aml.integer(ACPI_S5_SLEEP_TYPE), aml.integer(0)];
  return aml.name('\\_S5', aml.pkg(type, none, none, none));
};

function pciHost({ windows, buses, intxGsis }: DsdtOptions): aml.Aml {
  const crs = resources.resourceTemplate(
    resources.busNumbers(0, buses),
    resources.ioPorts(PCI_CONFIG_PORT, PCI_CONFIG_PORTS),
    ...windows.map(({ kind, base, bytes }) =>
      kind === 'pio' ? resources.ioWindow(base, bytes) : resources.memoryWindow(base, bytes),
    ),
  );
  return aml.device(
    'PCI0',
    aml.name('_HID', aml.eisaId('PNP0A08')),
    aml.name('_CID', aml.eisaId('PNP0A03')),
    aml.name('_UID', aml.integer(0)),
    aml.name('_SEG', aml.integer(0)),
    aml.name('_BBN', aml.integer(0)),
    aml.name('_CRS', crs),
    aml.name('_PRT', interruptRouting(intxGsis)),
    operatingSystemCapabilities(),
    aml.ioRegion('HPRG', PCI_HOTPLUG_PORT, PCI_HOTPLUG_PORTS),
    aml.dwordFields('HPRG', ...HOTPLUG_FIELDS),
    aml.mutex('HPLK'),
    ...hotplugSlots(),
  );
}

/** The GSI of a PCI slot's INTA# (pin 1) to INTD# (pin 4); adjacent slots do not share one. */
export function intxGsi(gsis: readonly number[], slot: number, pin: number): number {
  const gsi = gsis[(slot + pin - 1) % gsis.length];
  if (gsi === undefined) throw new RangeError('there are no GSIs for INTx');
  return gsi;
}

/** _PRT: the I/O APIC pin of each slot and pin, without link devices. */
function interruptRouting(gsis: readonly number[]): aml.Aml {
  const entries: aml.Aml[] = [];
  for (let slot = 0; slot < SLOTS; slot++) {
    for (let pin = 0; pin < PINS; pin++) {
      const anyFunction = aml.integer(slot * 0x1_0000 + 0xffff);
      const gsi = aml.integer(intxGsi(gsis, slot, pin + 1));
      entries.push(aml.pkg(anyFunction, aml.integer(pin), aml.integer(0), gsi));
    }
  }
  return aml.pkg(...entries);
}

const OSC_PCI_HOST_BRIDGE = '33DB4D5B-1FF7-401C-9657-7441C03DD766';
const OSC_UNRECOGNIZED_UUID = 0x04;
const OSC_CAPABILITIES_MASKED = 0x10;
/** Grants PME, AER, the PCIe capability and LTR. Hotplug stays with ACPI, since there is no root port. */
const OSC_GRANTED = 0x04 | 0x08 | 0x10 | 0x20;

/** _OSC: negotiates which PCIe features the guest controls. @see PCI Firmware 3.3, section 4.5 */
function operatingSystemCapabilities(): aml.Aml {
  const capabilities = aml.arg(3);
  const [status, control] = [aml.path('CDW1'), aml.path('CDW3')];
  return aml.method(
    '_OSC',
    4,
    aml.createDwordField(capabilities, 0, 'CDW1'),
    aml.ifThen(
      aml.lequal(aml.arg(0), aml.uuid(OSC_PCI_HOST_BRIDGE)),
      aml.createDwordField(capabilities, 8, 'CDW3'),
      aml.and(control, aml.integer(OSC_GRANTED), aml.local(0)),
      aml.ifThen(
        aml.lnot(aml.lequal(aml.local(0), control)),
        aml.or(status, aml.integer(OSC_CAPABILITIES_MASKED), status),
      ),
      aml.store(aml.local(0), control),
      aml.ret(capabilities),
    ),
    aml.or(status, aml.integer(OSC_UNRECOGNIZED_UUID), status),
    aml.ret(capabilities),
  );
}

// --- hotplug ---

/** In register order. */
const HOTPLUG_FIELDS = Object.entries({
  HPUP: PCI_HOTPLUG_UP,
  HPDN: PCI_HOTPLUG_DOWN,
  HPEJ: PCI_HOTPLUG_EJECT,
  HPST: PCI_HOTPLUG_STATUS,
})
  .sort(([, a], [, b]) => a - b)
  .map(([field]) => field);

const slotName = (slot: number): string => `S${slot.toString(16).toUpperCase().padStart(2, '0')}`;
/** Slots with hotplug: all but the host bridge's. */
const pluggable = (): number[] => Array.from({ length: SLOTS - 1 }, (_, i) => i + 1);

/** A device object per slot, for hotplug notifications, for ejecting its device (_EJ0) and for reports (_OST). */
const hotplugSlots = (): aml.Aml[] =>
  pluggable().map((slot) =>
    aml.device(
      slotName(slot),
      aml.name('_ADR', aml.integer(slot << 16)),
      aml.name('_SUN', aml.integer(slot)),
      aml.method(
        '_EJ0',
        1,
        aml.acquire('HPLK'),
        aml.store(aml.integer(2 ** slot), aml.path('HPEJ')),
        aml.release('HPLK'),
      ),
      aml.method(
        '_OST',
        3,
        aml.and(aml.arg(0), aml.integer(0xffff), aml.local(0)),
        aml.shiftLeft(aml.local(0), aml.integer(8), aml.local(0)),
        aml.and(aml.arg(1), aml.integer(0xff), aml.local(1)),
        aml.shiftLeft(aml.local(1), aml.integer(24), aml.local(1)),
        aml.or(aml.local(0), aml.local(1), aml.local(0)),
        aml.or(aml.local(0), aml.integer(slot), aml.path('HPST')),
      ),
    ),
  );

/** The method of an edge-triggered general-purpose event. */
const eventName = (gpe: number): string => `_E${gpe.toString(16).toUpperCase().padStart(2, '0')}`;

/** The general-purpose event handler that checks the slots. */
function hotplugEvents(): aml.Aml {
  const [up, down] = [aml.local(0), aml.local(1)];
  const noTarget = aml.integer(0);
  const told = (which: aml.Aml, slot: number, event: number) =>
    aml.ifThen(
      aml.and(which, aml.integer(2 ** slot), noTarget),
      aml.notify(`\\_SB.PCI0.${slotName(slot)}`, event),
    );
  return aml.scope(
    '\\_GPE',
    aml.method(
      eventName(PCI_HOTPLUG_GPE),
      0,
      aml.acquire('\\_SB.PCI0.HPLK'),
      aml.store(aml.path('\\_SB.PCI0.HPUP'), up),
      aml.store(aml.path('\\_SB.PCI0.HPDN'), down),
      aml.release('\\_SB.PCI0.HPLK'),
      ...pluggable().map((slot) => told(up, slot, ACPI_NOTIFY_DEVICE_CHECK)),
      ...pluggable().map((slot) => told(down, slot, ACPI_NOTIFY_EJECT_REQUEST)),
    ),
  );
}

// --- devices outside PCI ---

/** What guests find the generation ID's device by. */
const GENERATION_COUNTER = 'VM_Gen_Counter';
/** The ID has changed. */
const NOTIFY_NEW_GENERATION = 0x80;

/** ADDR is the address in two halves of 32 bits. */
const generationId = ({ generationId: at }: DsdtOptions): aml.Aml =>
  aml.device(
    'VGEN',
    aml.name('_HID', aml.string('TSVS0001')),
    aml.name('_CID', aml.string(GENERATION_COUNTER)),
    aml.name('_DDN', aml.string(GENERATION_COUNTER)),
    aml.name('ADDR', aml.pkg(aml.integer(at & 0xffff_ffffn), aml.integer(at >> 32n))),
  );

const generationEvent = (): aml.Aml =>
  aml.scope(
    '\\_GPE',
    aml.method(eventName(GENERATION_ID_GPE), 0, aml.notify('\\_SB.VGEN', NOTIFY_NEW_GENERATION)),
  );

/** Reserves ECAM: Linux uses it only if it is reserved like this. */
const motherboard = ({ ecam }: DsdtOptions): aml.Aml =>
  aml.device(
    'MBRD',
    aml.name('_HID', aml.eisaId('PNP0C02')),
    aml.name('_UID', aml.integer(0)),
    aml.name('_CRS', resources.resourceTemplate(resources.fixedMemory32(ecam.base, ecam.bytes))),
  );

function serialPort(number: number, declared: readonly number[]): aml.Aml {
  const found = COM_PORTS[number];
  if (found === undefined) throw new RangeError(`a PC has no serial port ${number}`);
  const { name, port, gsi } = found;
  const isShared = declared.some((other) => other !== number && COM_PORTS[other]?.gsi === gsi);
  const irq = isShared ? resources.sharedIsaIrq(gsi) : resources.isaIrq(gsi);
  return aml.device(
    name,
    aml.name('_HID', aml.eisaId('PNP0501')),
    aml.name('_UID', aml.integer(number)),
    aml.name('_STA', aml.integer(0xf)),
    aml.name('_CRS', resources.resourceTemplate(resources.ioPorts(port, SERIAL_PORTS), irq)),
  );
}

function isaDevices({ hasI8042, serialPorts }: DsdtOptions): aml.Aml[] {
  const serial = serialPorts.map((number) => serialPort(number, serialPorts));
  const rtc = aml.device(
    'RTC0',
    aml.name('_HID', aml.eisaId('PNP0B00')),
    aml.name('_CRS', resources.resourceTemplate(resources.ioPorts(RTC_PORT, RTC_PORTS))),
  );
  const keyboard = aml.device(
    'KBD0',
    aml.name('_HID', aml.eisaId('PNP0303')),
    aml.name(
      '_CRS',
      resources.resourceTemplate(resources.ioPorts(0x60, 1), resources.ioPorts(0x64, 1), resources.isaIrq(1)),
    ),
  );
  return hasI8042 ? [...serial, rtc, keyboard] : [...serial, rtc];
}

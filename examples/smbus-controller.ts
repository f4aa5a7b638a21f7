/**
 * Shows  a device for which Linux has a driver: an SMBus controller of Intel's ICH4 with a thermometer on its bus
 * Needs  nothing; docs/driver-tests.md tests it with Linux's i2c-i801 and lm75
 * Prints nothing: it is a plug-in
 *
 *   npx tsvisor serve smbus --plugin ./dist/examples/smbus-controller.js --socket /tmp/smbus.sock
 */
import { constants } from 'node:os';
import type { Plugin } from 'tsvisor';
import {
  ConfigSpace,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_DEVICE_ID,
  PCI_VENDOR_ID,
  PciRegions,
  RegionOps,
  registerAccess,
} from 'tsvisor/devices';
import type { Register } from 'tsvisor/testing';
import { type IrqInfo, SysError, type VendorDriver, type VfioDeviceOps } from 'tsvisor/vfio';

const SMBUS_BAR = 4;
const CONFIG = 7;
const HST_STS = 0x00;
const HST_CNT = 0x02;
const HST_CMD = 0x03;
const HST_ADD = 0x04;
const HST_DAT0 = 0x05;
const HST_DAT1 = 0x06;
const AUX_STS = 0x0c;
const AUX_CTL = 0x0d;
const HSTCFG = 0x40; // in configuration space

const HOST_BUSY = 1 << 0; // of HST_STS; the other bits are cleared by writing 1
const INTR = 1 << 1;
const DEV_ERR = 1 << 2;
const START = 1 << 6; // of HST_CNT

// Of HST_CNT, bits 2 to 4: what is transferred.
const BYTE_DATA = 2;
const WORD_DATA = 3;

/** What can be wrong with a controller. */
export type SmbusBug = 'lacks-data' | 'stays-busy' | 'swaps-bytes';

/**
 * The registers as the data sheet has them, and which of them a controller has. This one moves one or two bytes: no blocks,
 * no checksums, and it is nobody's slave.
 */
export function smbusRegisters(bug?: SmbusBug): Register[] {
  const register = (name: string, offset: number): Register => ({
    name,
    region: SMBUS_BAR,
    offset,
    size: 1,
    reset: 0,
  });
  const lacking = (name: string, offset: number): Register => ({
    ...register(name, offset),
    isModelled: false,
  });
  return [
    { name: 'HSTCFG', region: CONFIG, offset: HSTCFG, size: 1, reset: 0 },
    register('HST_STS', HST_STS),
    register('HST_CNT', HST_CNT),
    register('HST_CMD', HST_CMD),
    register('HST_ADD', HST_ADD),
    (bug === 'lacks-data' ? lacking : register)('HST_DAT0', HST_DAT0),
    register('HST_DAT1', HST_DAT1),
    lacking('BLOCK_DAT', 0x07),
    lacking('PEC', 0x08),
    register('AUX_STS', AUX_STS),
    register('AUX_CTL', AUX_CTL),
    lacking('SLV_STS', 0x10),
    lacking('SLV_CMD', 0x11),
  ];
}

/** Configuration space without the BAR. */
function createConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, 0x8086);
  space.set(PCI_DEVICE_ID, 2, 0x24c3);
  space.set(PCI_CLASS_DEVICE, 2, 0x0c05);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_IO);
  space.allow(HSTCFG, 1, 0xff);
  return space;
}

/** A thermometer like National's LM75: registers of 16 bits, high byte first, but for the configuration. */
class Thermometer {
  static readonly ADDRESS = 0x48;
  readonly #registers: number[];

  /** @param celsius by halves of a degree */
  constructor(celsius: number) {
    this.#registers = [celsius * 256, 0, 75 * 256, 80 * 256].map((value) => value & 0xffff);
  }

  read(register: number): number {
    return this.#registers[register & 3] as number;
  }

  write(register: number, value: number): void {
    if ((register & 3) !== 0) this.#registers[register & 3] = value; // the temperature is read-only
  }
}

/** The controller. It transfers at once, and has no interrupt: its driver polls. */
export class SmbusController extends RegionOps implements VfioDeviceOps {
  readonly name = 'smbus';
  readonly #bug: SmbusBug | undefined;
  readonly #thermometer = new Thermometer(21.5);
  readonly #bytes = new Uint8Array(0x20);

  protected readonly regions = new PciRegions('smbus', {
    config: { create: createConfig },
    bars: [
      {
        index: SMBUS_BAR,
        kind: 'io',
        size: 0x20,
        ...registerAccess(
          { read: (at) => this.#read(at), write: (at, _bytes, value) => this.#write(at, value) },
          1,
        ),
      },
    ],
  });

  constructor(bug?: SmbusBug) {
    super();
    this.#bug = bug;
  }

  openDevice(): void {
    this.regions.resetConfig();
    this.reset();
  }

  closeDevice(): void {}

  override reset(): void {
    this.#bytes.fill(0);
  }

  getIrqInfo(index: number): IrqInfo {
    return { index, flags: 0, count: 0 };
  }

  setIrqs(): void {
    throw new SysError({ call: 'VFIO_DEVICE_SET_IRQS', target: this.name, errno: constants.errno.EINVAL });
  }

  #has(at: number): boolean {
    if (at === HST_DAT0) return this.#bug !== 'lacks-data';
    return at <= HST_DAT1 || at === AUX_STS || at === AUX_CTL;
  }

  #read(at: number): number {
    return this.#has(at) ? (this.#bytes[at] as number) : 0xff;
  }

  #write(at: number, value: number): void {
    if (!this.#has(at)) return;
    const before = this.#bytes[at] as number;
    const isStatus = at === HST_STS || at === AUX_STS;
    this.#bytes[at] = isStatus ? before & ~(value & ~HOST_BUSY) : at === HST_CNT ? value & ~START : value;
    if (at === HST_CNT && (value & START) !== 0) this.#transfer((value >> 2) & 7);
  }

  #transfer(what: number): void {
    const [address, isRead] = [
      (this.#bytes[HST_ADD] as number) >> 1,
      ((this.#bytes[HST_ADD] as number) & 1) === 1,
    ];
    const isAnswered = address === Thermometer.ADDRESS && (what === BYTE_DATA || what === WORD_DATA);
    if (isAnswered) this.#exchange(what, isRead);
    const busy = this.#bug === 'stays-busy' ? HOST_BUSY : 0;
    this.#bytes[HST_STS] = busy | (isAnswered ? INTR : DEV_ERR);
  }

  /** DAT0 is the byte that comes first on the bus. */
  #exchange(what: number, isRead: boolean): void {
    const register = this.#bytes[HST_CMD] as number;
    const [first, second] = this.#bug === 'swaps-bytes' ? [HST_DAT1, HST_DAT0] : [HST_DAT0, HST_DAT1];
    if (!isRead) {
      const [high, low] = [this.#bytes[first] as number, this.#bytes[second] as number];
      this.#thermometer.write(
        register,
        what === BYTE_DATA ? (this.#bytes[HST_DAT0] as number) : (high << 8) | low,
      );
      return;
    }
    const value = this.#thermometer.read(register);
    if (what === BYTE_DATA) this.#bytes[HST_DAT0] = value;
    else {
      this.#bytes[first] = value >> 8;
      this.#bytes[second] = value & 0xff;
    }
  }
}

export const smbusDriver: VendorDriver = {
  name: 'smbus',
  types: [
    { name: 'smbus', description: 'an SMBus with a thermometer', deviceApi: 'vfio-pci', maxInstances: 8 },
  ],
  create: () => ({ ops: new SmbusController(), [Symbol.dispose]() {} }),
};

export const plugin: Plugin = { name: 'smbus', vendorDrivers: [smbusDriver] };

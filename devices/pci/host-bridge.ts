/** The PCI host bridge: bus 0, and access to its configuration space by ports 0xCF8/0xCFC and by ECAM. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { disposable } from '../../sys/scope.js';
import type { BusDevice, PciFunction } from '../contracts.js';
import { allOnes, ConfigSpace, littleEndian } from './config-space.js';
import {
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_MFD,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from './pci-regs.js';

/** First port of configuration mechanism #1, and the number of ports: CONFIG_ADDRESS and CONFIG_DATA. */
export const PCI_CONFIG_PORT = 0xcf8;
/** Number of ports from {@link PCI_CONFIG_PORT}: CONFIG_ADDRESS and CONFIG_DATA. */
export const PCI_CONFIG_PORTS = 8;
/** Size of one bus in ECAM, in bytes. */
export const PCI_ECAM_BUS_BYTES = 1 << 20;

const CONFIG_DATA = 4;
const CONFIG_ADDRESS_ENABLE = 0x80000000;
/** Implemented bits of CONFIG_ADDRESS: enable, bus, device, function, register. */
const CONFIG_ADDRESS_BITS = 0x80fffffc;
/** 0xCF9, the reset control register of PC chipsets, lies inside CONFIG_ADDRESS and accepts only byte accesses. */
const RESET_CONTROL = 1;
const RESET_CONTROL_RST_CPU = 0x04;
const RESET_CONTROL_BITS = 0x0e;

const DEVICES = 32;
const FUNCTIONS = 8;

// The ids that QEMU's generic host bridge uses.
const REDHAT_VENDOR = 0x1b36;
const HOST_BRIDGE_DEVICE = 0x0008;
const QUMRANET_VENDOR = 0x1af4;
const GENERIC_SUBSYSTEM = 0x1100;
const PCI_CLASS_BRIDGE_HOST = 0x0600;

/** A device and function number on bus 0. */
export interface PciSlot {
  /** 0 to 31 */
  readonly device: number;
  /** 0 to 7 */
  readonly function: number;
}

/** `00:03.0` */
export const formatSlot = (slot: PciSlot): string =>
  `00:${slot.device.toString(16).padStart(2, '0')}.${slot.function}`;

/** Function numbers of a slot for virtual functions (VFs), which come and go. Disposing it gives them back. */
export interface ReservedFunctions extends Disposable {
  /** Shows a VF at one of them, counted from 0; disposing the result removes it. @throws RangeError as {@link PciHost.add} */
  add(index: number, pciFunction: PciFunction): Disposable;
}

/** What {@link PciHost} reports to the machine. */
export interface PciHostOptions {
  /** Called when the guest requests a reset through port 0xCF9. */
  readonly reset?: () => void;
}

/** Length of {@link PciHost.save}'s result in bytes: CONFIG_ADDRESS, reset control, the bridge's command register. */
const HOST_STATE_BYTES = 7;

/** The configuration space of function 00:00.0. */
function bridgeSpace(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, REDHAT_VENDOR);
  space.set(PCI_DEVICE_ID, 2, HOST_BRIDGE_DEVICE);
  space.set(PCI_CLASS_DEVICE, 2, PCI_CLASS_BRIDGE_HOST);
  space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, QUMRANET_VENDOR);
  space.set(PCI_SUBSYSTEM_ID, 2, GENERIC_SUBSYSTEM);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  return space;
}

/** Function 00:00.0. It does nothing, but guests probe for it to detect PCI. */
function createHostBridge(space: ConfigSpace): PciFunction {
  return {
    name: 'host bridge',
    configRead: (offset, bytes) => space.read(offset, bytes),
    configWrite: (offset, bytes, value) => void space.write(offset, bytes, value),
    [Symbol.dispose]() {},
  };
}

/** The largest naturally aligned access of up to 4 bytes that starts at `offset` and is at most `left` long. */
function alignedBytes(offset: number, left: number): number {
  if (left >= 4 && offset % 4 === 0) return 4;
  return left >= 2 && offset % 2 === 0 ? 2 : 1;
}

/**
 * Bus 0 and its functions. Register {@link PciHost.ports} at {@link PCI_CONFIG_PORT} and {@link PciHost.ecam} at the
 * machine's ECAM window. Machine thread only.
 */
export class PciHost {
  /** Configuration mechanism #1, {@link PCI_CONFIG_PORTS} ports. */
  readonly ports: BusDevice;
  /** Memory-mapped configuration space, {@link PCI_ECAM_BUS_BYTES} per bus. Buses other than 0 are empty. */
  readonly ecam: BusDevice;
  readonly #reset: () => void;
  /** Indexed by device * 8 + function. */
  readonly #functions: (PciFunction | undefined)[] = new Array(DEVICES * FUNCTIONS).fill(undefined);
  /** Who has reserved a function number for VFs, indexed alike. */
  readonly #reserved: (string | undefined)[] = new Array(DEVICES * FUNCTIONS).fill(undefined);
  readonly #bridge = bridgeSpace();
  #address = 0;
  #resetControl = 0;

  private constructor(options: PciHostOptions) {
    this.#reset = options.reset ?? (() => {});
    this.ports = {
      name: 'PCI configuration ports',
      read: (offset, data) => this.#readPorts(offset, data),
      write: (offset, data) => this.#writePorts(offset, data),
    };
    this.ecam = {
      name: 'PCI ECAM',
      read: (offset, data) => this.#readSpace(offset >>> 12, offset & 0xfff, data, 0, data.length),
      write: (offset, data) => this.#writeSpace(offset >>> 12, offset & 0xfff, data, 0, data.length),
    };
  }

  /** Creates a host with its bridge at 00:00.0. */
  static create(options: PciHostOptions = {}): PciHost {
    const host = new PciHost(options);
    host.add({ device: 0, function: 0 }, createHostBridge(host.#bridge));
    return host;
  }

  /** What the guest has set up in it, without the functions' own state, for {@link load}. */
  save(): Uint8Array {
    const state = new Uint8Array(HOST_STATE_BYTES);
    const view = new DataView(state.buffer);
    view.setUint32(0, this.#address, true);
    view.setUint8(4, this.#resetControl);
    view.setUint16(5, this.#bridge.read(PCI_COMMAND, 2), true);
    return state;
  }

  /** Takes over a saved state, ignoring bits that there are not. Returns false if it is no state. */
  load(state: Uint8Array): boolean {
    if (state.length !== HOST_STATE_BYTES) return false;
    const view = new DataView(state.buffer, state.byteOffset, state.length);
    this.#address = (view.getUint32(0, true) & CONFIG_ADDRESS_BITS) >>> 0;
    this.#resetControl = view.getUint8(4) & RESET_CONTROL_BITS;
    this.#bridge.write(PCI_COMMAND, 2, view.getUint16(5, true));
    return true;
  }

  /**
   * Adds a function to a slot; disposing the result removes it, and leaves the function itself to its owner. As on any
   * bus, functions 1 to 7 are visible only while there is a function 0.
   * @throws RangeError if the slot does not exist or is in use; SysError EBUSY if it is reserved
   */
  add(slot: PciSlot, pciFunction: PciFunction): Disposable {
    if (!isWithin(slot.device, DEVICES) || !isWithin(slot.function, FUNCTIONS)) {
      throw new RangeError(`${pciFunction.name}: there is no PCI slot ${slot.device}.${slot.function}`);
    }
    const index = slot.device * FUNCTIONS + slot.function;
    const owner = this.#reserved[index];
    if (owner !== undefined) throw taken(slot, `for the virtual functions of ${owner}`);
    return this.#place(index, pciFunction);
  }

  /**
   * Reserves the next function numbers of a slot for VFs. They are found by the registers of their physical function, so that
   * they make no device one of several functions.
   * @param slot of the first one
   * @param owner name of the physical function
   * @throws SysError EINVAL if the slot has fewer; EBUSY if one is taken
   */
  reserve(slot: PciSlot, count: number, owner: string): ReservedFunctions {
    if (!isWithin(slot.device, DEVICES) || slot.function < 0 || slot.function + count > FUNCTIONS) {
      const hint = `a slot has ${FUNCTIONS} functions: ${FUNCTIONS - slot.function} are left for its ${count} virtual ones`;
      throw new SysError({ call: 'attach', target: owner, errno: errno.EINVAL, hint });
    }
    const first = slot.device * FUNCTIONS + slot.function;
    const indexes = Array.from({ length: count }, (_, i) => first + i);
    for (const index of indexes) {
      const holder = this.#functions[index]?.name ?? this.#reserved[index];
      if (holder !== undefined) throw taken({ device: slot.device, function: index & 7 }, `by ${holder}`);
    }
    const mark = (by: string | undefined) => {
      for (const index of indexes) this.#reserved[index] = by;
    };
    mark(owner);
    return {
      add: (i, pciFunction) => {
        if (!isWithin(i, count)) throw new RangeError(`${pciFunction.name}: there is no place ${i}`);
        return this.#place(first + i, pciFunction);
      },
      ...disposable(() => mark(undefined)),
    };
  }

  #place(index: number, pciFunction: PciFunction): Disposable {
    const other = this.#functions[index];
    if (other !== undefined) {
      const slot = formatSlot({ device: index >> 3, function: index & 7 });
      throw new RangeError(`${pciFunction.name}: PCI slot ${slot} is taken by ${other.name}`);
    }
    this.#functions[index] = pciFunction;
    return disposable(() => {
      this.#functions[index] = undefined;
    });
  }

  /** All functions, ordered by slot. */
  *entries(): IterableIterator<{ readonly slot: PciSlot; readonly function: PciFunction }> {
    for (const [index, found] of this.#functions.entries()) {
      if (found !== undefined) yield { slot: { device: index >> 3, function: index & 7 }, function: found };
    }
  }

  /** The function visible at `bdf`: without function 0, a device does not exist. */
  #find(bdf: number): PciFunction | undefined {
    if (bdf >= DEVICES * FUNCTIONS || this.#functions[bdf & ~7] === undefined) return undefined;
    return this.#functions[bdf];
  }

  #isMultiFunction(bdf: number): boolean {
    for (let i = (bdf & ~7) + 1; i <= (bdf | 7); i++)
      if (this.#functions[i] !== undefined && this.#reserved[i] === undefined) return true;
    return false;
  }

  #readSpace(bdf: number, offset: number, data: Uint8Array, from: number, to: number): void {
    const target = this.#find(bdf);
    for (let at = from; at < to; ) {
      const register = offset + at - from;
      const bytes = alignedBytes(register, to - at);
      let value = allOnes(bytes);
      // An access past the end of the function's 4 KiB is not claimed.
      if (target !== undefined && register < 4096) {
        value = target.configRead(register, bytes);
        const place = PCI_HEADER_TYPE - register;
        if (place >= 0 && place < bytes && this.#isMultiFunction(bdf)) {
          value = (value | (PCI_HEADER_TYPE_MFD << (8 * place))) >>> 0;
        }
      }
      for (let i = 0; i < bytes; i++) data[at + i] = (value >>> (8 * i)) & 0xff;
      at += bytes;
    }
  }

  #writeSpace(bdf: number, offset: number, data: Uint8Array, from: number, to: number): void {
    const target = this.#find(bdf);
    if (target === undefined) return;
    for (let at = from; at < to; ) {
      const register = offset + at - from;
      const bytes = alignedBytes(register, to - at);
      if (register < 4096) target.configWrite(register, bytes, littleEndian(data, at, bytes));
      at += bytes;
    }
  }

  /** An access across CONFIG_ADDRESS and CONFIG_DATA is two, as there is a dword boundary between them. */
  #readPorts(offset: number, data: Uint8Array): void {
    if (offset < CONFIG_DATA && offset + data.length > CONFIG_DATA) {
      this.#readPorts(offset, data.subarray(0, CONFIG_DATA - offset));
      this.#readPorts(CONFIG_DATA, data.subarray(CONFIG_DATA - offset));
      return;
    }
    data.fill(0xff);
    if (offset >= CONFIG_DATA) {
      if ((this.#address & CONFIG_ADDRESS_ENABLE) === 0) return;
      // Ports past 0xCFF are not claimed.
      const bytes = Math.min(data.length, PCI_CONFIG_PORTS - offset);
      const register = (this.#address & 0xfc) + (offset - CONFIG_DATA);
      this.#readSpace((this.#address >>> 8) & 0xffff, register, data, 0, bytes);
    } else if (offset === 0 && data.length === 4) {
      for (let i = 0; i < 4; i++) data[i] = (this.#address >>> (8 * i)) & 0xff;
    } else if (offset === RESET_CONTROL && data.length === 1) {
      data[0] = this.#resetControl;
    }
  }

  #writePorts(offset: number, data: Uint8Array): void {
    if (offset < CONFIG_DATA && offset + data.length > CONFIG_DATA) {
      this.#writePorts(offset, data.subarray(0, CONFIG_DATA - offset));
      this.#writePorts(CONFIG_DATA, data.subarray(CONFIG_DATA - offset));
      return;
    }
    if (offset >= CONFIG_DATA) {
      if ((this.#address & CONFIG_ADDRESS_ENABLE) === 0) return;
      const bytes = Math.min(data.length, PCI_CONFIG_PORTS - offset);
      const register = (this.#address & 0xfc) + (offset - CONFIG_DATA);
      this.#writeSpace((this.#address >>> 8) & 0xffff, register, data, 0, bytes);
    } else if (offset === 0 && data.length === 4) {
      this.#address = (littleEndian(data, 0, 4) & CONFIG_ADDRESS_BITS) >>> 0;
    } else if (offset === RESET_CONTROL && data.length === 1) {
      const old = this.#resetControl;
      this.#resetControl = (data[0] as number) & RESET_CONTROL_BITS;
      // The bit's rising edge resets.
      if ((this.#resetControl & ~old & RESET_CONTROL_RST_CPU) !== 0) this.#reset();
    }
  }
}

function taken(slot: PciSlot, by: string): SysError {
  const target = `PCI slot ${formatSlot(slot)}`;
  const hint = `it is taken ${by}; give the device another slot`;
  return new SysError({ call: 'attach', target, errno: errno.EBUSY, hint });
}

const isWithin = (value: number, end: number): boolean =>
  Number.isInteger(value) && value >= 0 && value < end;

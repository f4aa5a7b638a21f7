/**
 * Ports between devices and the machine around them. Each has a token of its own name, for injection. vmm/assign/
 * implements them over KVM; `tsvisor/testing` has fakes. All are used by the thread that owns the VM.
 */
import type { Gpa, Hva } from '../sys/address.js';

export type { PciFunction } from '../vfio/assign/index.js';

/** A device behind a range of a bus. It sees offsets into its range, never addresses. */
export interface BusDevice {
  /** Name for messages and reports. */
  readonly name: string;
  /** Fills `data` (1 to 8 bytes); a device that has nothing there leaves the all-ones it is given. Never throws. */
  read(offset: number, data: Uint8Array): void;
  /** Takes `data` (1 to 8 bytes). Never throws. */
  write(offset: number, data: Uint8Array): void;
}

/** One of the two buses that a vCPU sees. Addresses are guest physical, or I/O ports. */
export interface Bus {
  /** `mmio` takes guest physical addresses, `pio` takes I/O ports. */
  readonly kind: 'mmio' | 'pio';
  /**
   * Puts a device at a range; disposing the result takes it away.
   * @throws RangeError naming both devices if the range overlaps another one
   */
  add(base: bigint, bytes: bigint, device: BusDevice): Disposable;
}
/** Token of the bus of guest physical addresses. */
export const MmioBus = Symbol('MmioBus');
/** Token of the bus of I/O ports. */
export const PioBus = Symbol('PioBus');

/** Memory the guest reaches without an exit. */
export interface GuestMapper {
  /**
   * Shows `bytes` of host memory at a guest physical address (a KVM memory slot), and to assigned devices (a DMA map,
   * where that is possible). Disposing the result takes it away.
   * @throws SysError EEXIST on overlap with another slot; EINVAL misaligned; ENOSPC
   */
  map(gpa: Gpa, hva: Hva, bytes: bigint, name: string): Disposable;
}
/** Token of the port {@link GuestMapper}. */
export const GuestMapper = Symbol('GuestMapper');

/** Guest writes that only wake a device: they signal an eventfd inside KVM, without an exit. */
export interface Doorbells {
  /**
   * Registers a doorbell; disposing the result unregisters it. `fd` has to stay open until then.
   * @param bytes width of the write that counts, 0 for any
   * @param datamatch only this value counts
   * @throws SysError EEXIST if the address is registered with this value or with any; ENOSPC
   */
  add(kind: Bus['kind'], address: bigint, bytes: number, fd: number, datamatch?: bigint): Disposable;
}
/** Token of the port {@link Doorbells}. */
export const Doorbells = Symbol('Doorbells');

/** One message-signalled interrupt on its way into the guest: eventfd, irqfd, GSI, MSI route. */
export interface MsiLine extends Disposable {
  /** Signal this and the guest is interrupted, if the line is open; else the signal is kept until it is. */
  readonly eventfd: number;
  /** Sets the message, and lets interrupts through. Pending ones are delivered at once. */
  open(address: bigint, data: number): void;
  /** Holds interrupts back (masked): signals stay in the eventfd. */
  close(): void;
  /** Whether interrupts are let through. */
  readonly isOpen: boolean;
  /** Whether an interrupt is held back. */
  isPending(): boolean;
}

/** A level-triggered interrupt pin: asserted by an eventfd until the guest's EOI, which signals another one. */
export interface LevelLine extends Disposable {
  /** Signalling it asserts the pin. */
  readonly eventfd: number;
  /** Signalled at EOI, when the pin has been de-asserted: the device then checks whether it still wants it. */
  readonly resamplefd: number;
  /** Number of the I/O APIC pin, for the guest's tables. */
  readonly gsi: number;
}

/** Where devices get their interrupts from. */
export interface Interrupts {
  /** @throws SysError ENOSPC when all GSIs are used */
  msi(name: string): MsiLine;
  /** Connects a level-triggered line; disposing it disconnects the pin. @param gsi I/O APIC pin */
  level(gsi: number, name: string): LevelLine;
}
/** Token of the port {@link Interrupts}. */
export const Interrupts = Symbol('Interrupts');

/** Eventfds that somebody else signals, and the machine thread has to hear of. */
export interface Signals {
  /**
   * Calls `ready` between two exits whenever `fd` has been signalled; its count has been taken out. The fd has to stay
   * open until the result is disposed.
   * @throws SysError EEXIST if it is watched already
   */
  watch(fd: number, ready: () => void): Disposable;
}
/** Token of the port {@link Signals}. */
export const Signals = Symbol('Signals');

/** The machine's clocks. */
export interface Clock {
  /** Nanoseconds of a clock that never goes back. */
  nowNs(): bigint;
  /** Milliseconds since 1970, UTC. */
  nowMs(): number;
}
/** Token of the port {@link Clock}. */
export const Clock = Symbol('Clock');

/** All a PCI device needs of its machine. */
export interface PciEnvironment {
  /** The bus of guest physical addresses, for trapped memory BARs. */
  readonly mmio: Bus;
  /** The bus of I/O ports, for I/O BARs. */
  readonly pio: Bus;
  /** Maps mappable BARs into the guest. */
  readonly memory: GuestMapper;
  /** Registers doorbells in KVM. */
  readonly doorbells: Doorbells;
  /** Allocates the lines of the device's interrupts. */
  readonly interrupts: Interrupts;
  /** Watches eventfds that the device signals to its user. */
  readonly signals: Signals;
  /** Where the guest may place BARs: outside of these a BAR is not shown, and a trace event says so. */
  readonly windows: readonly AddressWindow[];
}

/** Token of {@link PciEnvironment.windows}. */
export const PciWindows = Symbol('PciWindows');

/** A range of one bus. */
export interface AddressWindow {
  /** The bus. */
  readonly kind: Bus['kind'];
  /** First address or port. */
  readonly base: bigint;
  /** Length in bytes, or number of ports. */
  readonly bytes: bigint;
}

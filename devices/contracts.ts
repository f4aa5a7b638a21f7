/**
 * Ports between devices and the machine. Each has an injection token of the same name. vmm/assign/ implements them over
 * KVM; devices/testing.ts has fakes. The thread that owns the VM calls them.
 */
import type { Gpa, Hva } from '../sys/address.js';

export type { PciFunction } from '../vfio/assign/index.js';

/** A device at a range of a bus. It takes offsets into its range, never addresses. */
export interface BusDevice {
  /** Name for messages and reports. */
  readonly name: string;
  /** Fills `data` (1 to 8 bytes), which is preset to all-ones. Never throws. */
  read(offset: number, data: Uint8Array): void;
  /** Handles a write of `data` (1 to 8 bytes). Never throws. */
  write(offset: number, data: Uint8Array): void;
}

/** One of the two buses that vCPUs access. Addresses are guest physical, or I/O ports. */
export interface Bus {
  /** `mmio` takes guest physical addresses, `pio` takes I/O ports. */
  readonly kind: 'mmio' | 'pio';
  /**
   * Adds a device at a range; disposing the result removes it.
   * @throws RangeError naming both devices if the range overlaps another one
   */
  add(base: bigint, bytes: bigint, device: BusDevice): Disposable;
}
/** Token of the bus of guest physical addresses. */
export const MmioBus = Symbol('MmioBus');
/** Token of the bus of I/O ports. */
export const PioBus = Symbol('PioBus');

/** Maps host memory into the guest, which then accesses it without exits. */
export interface GuestMapper {
  /**
   * Maps `bytes` of host memory at a guest physical address (a KVM memory slot), and for the DMA of assigned devices
   * where that is possible. Disposing the result unmaps it.
   * @throws SysError EEXIST if it overlaps another slot; EINVAL if it is misaligned; ENOSPC if no slot is free
   */
  map(gpa: Gpa, hva: Hva, bytes: bigint, name: string): Disposable;
  /**
   * As {@link map}, but the guest's writes exit, and devices cannot reach the memory. Absent if an implementation cannot do
   * that: every access then exits.
   */
  mapReadonly?(gpa: Gpa, hva: Hva, bytes: bigint, name: string): Disposable;
}
/** Token of the port {@link GuestMapper}. */
export const GuestMapper = Symbol('GuestMapper');

/** Doorbells: guest writes that only notify a device. They signal an eventfd inside KVM, without an exit. */
export interface Doorbells {
  /**
   * Registers a doorbell; disposing the result unregisters it. `fd` must stay open until then.
   * @param bytes width of the writes that signal; 0 for any
   * @param datamatch the only value that signals; any if absent
   * @throws SysError EEXIST if the address is already registered with this value or with any value; ENOSPC
   */
  add(kind: Bus['kind'], address: bigint, bytes: number, fd: number, datamatch?: bigint): Disposable;
}
/** Token of the port {@link Doorbells}. */
export const Doorbells = Symbol('Doorbells');

/** A message-signalled interrupt's path into the guest: eventfd, irqfd, GSI, MSI route. Disposing frees the GSI. */
export interface MsiLine extends Disposable {
  /** Signal it to interrupt the guest. While the line is closed, the signal stays pending. */
  readonly eventfd: number;
  /** Sets the message and unmasks the line; delivers a pending interrupt immediately. */
  open(address: bigint, data: number): void;
  /** Masks the line: signals stay pending in the eventfd. */
  close(): void;
  /** Whether the line is unmasked. */
  readonly isOpen: boolean;
  /** Whether an interrupt is pending. */
  isPending(): boolean;
}

/** A level-triggered interrupt pin: one eventfd asserts it until the guest's EOI, which signals another eventfd. */
export interface LevelLine extends Disposable {
  /** Signal it to assert the pin. */
  readonly eventfd: number;
  /** Signalled at EOI, after the pin is deasserted; the device asserts it again if its interrupt is still pending. */
  readonly resamplefd: number;
  /** Number of the I/O APIC pin, for the guest's tables. */
  readonly gsi: number;
}

/** Allocates interrupt lines for devices. */
export interface Interrupts {
  /** Allocates a line for one message, closed at first. @throws SysError ENOSPC if no GSI is free */
  msi(name: string): MsiLine;
  /** Connects a level-triggered line; disposing it disconnects the pin. @param gsi I/O APIC pin */
  level(gsi: number, name: string): LevelLine;
}
/** Token of the port {@link Interrupts}. */
export const Interrupts = Symbol('Interrupts');

/** Notifies the machine thread of signalled eventfds. */
export interface Signals {
  /**
   * Calls `ready` between two exits after `fd` is signalled; its counter is already reset. `fd` must stay open until
   * the result is disposed.
   * @throws SysError EEXIST if it is already watched
   */
  watch(fd: number, ready: () => void): Disposable;
}
/** Token of the port {@link Signals}. */
export const Signals = Symbol('Signals');

/** The machine's clocks. */
export interface Clock {
  /** Nanoseconds of a monotonic clock. */
  nowNs(): bigint;
  /** Milliseconds since 1970, UTC. */
  nowMs(): number;
}
/** Token of the port {@link Clock}. */
export const Clock = Symbol('Clock');

/** The ports of the machine that a PCI device uses. */
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
  /** Ranges in which the guest can place BARs. A BAR outside them is not decoded; a trace event reports it. */
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

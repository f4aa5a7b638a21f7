import type { DeviceFile } from '../uapi.js';

/** One PCI function, as the host bridge sees it. */
export interface PciFunction extends Disposable {
  /** For messages: `00:03.0 virtio-net`. */
  readonly name: string;
  /** Reads 1, 2 or 4 naturally aligned bytes of configuration space. Never throws. */
  configRead(offset: number, bytes: number): number;
  /** Writes 1, 2 or 4 naturally aligned bytes of configuration space. Never throws. */
  configWrite(offset: number, bytes: number, value: number): void;
}

/** How an assigned function is wired into its machine. */
export interface PciWiring {
  /**
   * The I/O APIC pin that a PCI interrupt pin (1 for INTA to 4 for INTD) of the device's slot is wired to; undefined
   * for none. Without this the device has no INTx, and its interrupt pin register reads 0.
   */
  readonly routeIntx?: ((pin: number) => number | undefined) | undefined;
  /** The host asks for the device (REQ): detach and close it soon. Called in the thread that owns the VM. */
  readonly requested?: (() => void) | undefined;
  /** The device had an uncorrectable error (ERR). Called in the thread that owns the VM. */
  readonly failed?: (() => void) | undefined;
}

/** Port: turns an open device file into a function on the guest's PCI bus. */
export interface PciFunctions {
  /**
   * Resets the device and emulates its configuration space over it. The file has to outlive the function.
   * @param name for messages
   * @throws SysError ENODEV if the file is no PCI device's; else of the call that failed; nothing is left behind
   */
  open(name: string, file: DeviceFile, wiring: PciWiring): PciFunction;
}

/** Token of the port {@link PciFunctions}. */
export const PciFunctions = Symbol('PciFunctions');

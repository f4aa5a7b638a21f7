import type { DeviceFile } from '../uapi.js';

/** A PCI function, as the host bridge accesses it. Disposing it closes the function, not its device file. */
export interface PciFunction extends Disposable {
  /** Its name in messages: `00:03.0 virtio-net`. */
  readonly name: string;
  /** Reads 1, 2 or 4 naturally aligned bytes of configuration space. Never throws. */
  configRead(offset: number, bytes: number): number;
  /** Writes 1, 2 or 4 naturally aligned bytes of configuration space. Never throws. */
  configWrite(offset: number, bytes: number, value: number): void;
}

/** Wiring of an assigned function to its machine. */
export interface PciWiring {
  /**
   * Returns the I/O APIC pin that interrupt pin `pin` (1 for INTA to 4 for INTD) of the device's slot is wired to, undefined
   * if to none. Without this callback the device has no INTx, and its interrupt pin register reads 0.
   */
  readonly routeIntx?: ((pin: number) => number | undefined) | undefined;
  /** The host requests the device's release (REQ): detach it soon. Called in the thread that owns the VM. */
  readonly requested?: (() => void) | undefined;
  /** The device reported an uncorrectable error (ERR). Called in the thread that owns the VM. */
  readonly failed?: (() => void) | undefined;
}

/** Port: opens PCI functions for the guest's bus over VFIO device files. */
export interface PciFunctions {
  /**
   * Resets the device and emulates configuration space over it. The file has to stay open until the function is disposed.
   * @param name its name in messages
   * @throws SysError ENODEV if the file is not a PCI device; else the error of the failed call. Nothing stays open
   */
  open(name: string, file: DeviceFile, wiring: PciWiring): PciFunction;
}

/** Token of the port {@link PciFunctions}. */
export const PciFunctions = Symbol('PciFunctions');

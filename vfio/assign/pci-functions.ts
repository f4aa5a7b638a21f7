import type { SriovFunctions } from '../sriov.js';
import type { DeviceFile } from '../uapi.js';

/** A PCI function, as the host bridge accesses it. Disposing it closes the function, not its device file. */
export interface PciFunction extends Disposable {
  /** Its name in messages: `00:03.0 virtio-net`. */
  readonly name: string;
  /** Reads 1, 2 or 4 naturally aligned bytes of configuration space. Never throws. */
  configRead(offset: number, bytes: number): number;
  /** Writes 1, 2 or 4 naturally aligned bytes of configuration space. Never throws. */
  configWrite(offset: number, bytes: number, value: number): void;
  /** Its BARs and interrupts as they are now, as plain data; absent if an implementation does not tell. Never throws. */
  inspect?(): PciFunctionState;
  /**
   * What the guest has set up in it, for {@link load}: configuration space, BARs' addresses, interrupts with what is masked and
   * pending. The device is stopped, so that none comes meanwhile; its own state is saved apart from it. Absent if an implementation
   * cannot be saved. Never throws.
   */
  save?(): Uint8Array;
  /**
   * Takes over what {@link save} has returned, for the same kind of function: BARs are mapped where they were, and interrupts wired
   * with their messages and masks; those that were pending are raised. The device is stopped. Untrusted input.
   * @throws RangeError for what is no state, or another device's. The function is as it was then
   */
  load?(state: Uint8Array): void;
}

/** A part of a BAR. */
export interface BarPart {
  /** Offset in the BAR, in bytes. */
  readonly offset: number;
  /** Length. */
  readonly bytes: number;
  /** `mapped` is accessed without exits, `trapped` exits. */
  readonly kind: 'mapped' | 'trapped';
}

/** What one page of a BAR has cost. */
export interface PageExits {
  /** Offset of the page in the BAR. */
  readonly offset: number;
  /** Reads that exited; one of them can span two pages, and counts for the first. */
  readonly reads: number;
  /** Writes that exited, counted alike. */
  readonly writes: number;
}

/** A BAR or the expansion ROM of a function. */
export interface BarState {
  /** `BAR4` or `ROM` */
  readonly label: string;
  /** `64-bit prefetchable` */
  readonly type: string;
  /** Memory or ports. */
  readonly bus: 'mmio' | 'pio';
  /** Length. */
  readonly bytes: number;
  /** Where the guest decodes it; undefined while it does not. */
  readonly base: bigint | undefined;
  /** All of it, in order. A ROM is mapped for reading while the guest enables it, and has no parts. */
  readonly parts: readonly BarPart[];
  /** Ranges whose writes signal an eventfd in KVM, without an exit. */
  readonly doorbells: readonly { readonly offset: number; readonly bytes: number }[];
  /** The pages that had exits, in order of their offsets: those of the first 1024 pages that had any. */
  readonly exits: readonly PageExits[];
  /** Exits of the other pages. */
  readonly otherExits: number;
}

/** An MSI or MSI-X vector with an eventfd. */
export interface VectorState {
  /** Number of the vector, from 0. */
  readonly vector: number;
  /** The guest has masked it, or all of them. */
  readonly isMasked: boolean;
  /** An interrupt waits for the vector to be unmasked. */
  readonly isPending: boolean;
  /** How many interrupts the device has sent by it. Absent if the device does not count: never 0 for unknown. */
  readonly sent?: number;
}

/** A function's BARs and interrupts. */
export interface PciFunctionState {
  /** BARs and ROM, in order of their registers. */
  readonly bars: readonly BarState[];
  /** How it interrupts. */
  readonly interrupts: {
    readonly mode: 'msix' | 'msi' | 'intx' | 'none';
    /** The I/O APIC pin of its INTx; undefined if it has none. */
    readonly gsi: number | undefined;
    /** Vectors that the mode in use has; those of MSI and MSI-X that are wired have an eventfd. */
    readonly vectors: readonly VectorState[];
  };
  /** The virtual functions that the guest has enabled; absent if it can have none. */
  readonly virtualFunctions?: readonly VirtualFunctionState[];
}

/** A virtual function that the guest has enabled. */
export interface VirtualFunctionState extends Omit<PciFunctionState, 'virtualFunctions'> {
  /** `00:05.1 testcard VF 0` */
  readonly name: string;
}

/** Places of a device's VFs on the guest's bus. Disposing it gives them back; no VF may be there any more. */
export interface VfPlaces extends Disposable {
  /** The physical function's own number in its slot: the Function Dependency Link. */
  readonly function: number;
  /** First VF Offset: from the physical function's routing ID to that of VF 0. */
  readonly firstOffset: number;
  /** VF Stride: from one VF's routing ID to the next. */
  readonly stride: number;
  /** Name of a VF in messages: `00:05.1 testcard VF 0`. */
  name(index: number): string;
  /** Shows a VF to the guest; disposing the result hides it. */
  add(index: number, pciFunction: PciFunction): Disposable;
}

/** A VF whose device file is open. Disposing it closes the file and removes the VF. */
export interface OpenedVf extends Disposable {
  /** Its open device file. */
  readonly file: DeviceFile;
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
  /**
   * Reserves places for so many VFs, for as long as the function is open. Absent: the guest sees no VFs.
   * @throws SysError EBUSY if a place is taken; EINVAL if there are fewer
   */
  readonly reserveVfs?: ((count: number) => VfPlaces) | undefined;
}

/** A function that the reset of a slot or bus affects. */
export interface AffectedFunction {
  /** Its PCI address, or its name if it is a device of this process. */
  readonly address: string;
  /** Why it cannot be reset by this machine: `group 27 is not attached`; absent if this machine owns it. */
  readonly foreign?: string;
}

/** The reset of an attached device's slot or bus (VFIO_DEVICE_PCI_HOT_RESET), with the proof that the machine owns it. */
export interface SlotReset {
  /** The device's own address in {@link affected}. */
  readonly address: string;
  /**
   * Every function that it affects now, the device's own included.
   * @throws SysError ENODEV or ENOTTY if neither slot nor bus can be reset; any error of the call
   */
  affected(): readonly AffectedFunction[];
  /** Resets all of them. @throws SysError EINVAL if one is foreign; any error of the call */
  reset(): void;
}

/** Port: opens PCI functions for the guest's bus over VFIO device files. */
export interface PciFunctions {
  /**
   * Resets the device and emulates configuration space over it. The file has to stay open until the function is disposed.
   * @param name its name in messages
   * @param slot the reset of its slot or bus; absent if its provider has no such call
   * @param sriov the VFs that the guest can enable; absent if it has none
   * @throws SysError ENODEV if the file is not a PCI device; else the error of the failed call. Nothing stays open
   */
  open(
    name: string,
    file: DeviceFile,
    wiring: PciWiring,
    slot?: SlotReset,
    sriov?: SriovFunctions<OpenedVf>,
  ): PciFunction;
  /**
   * Resets all open functions, as a machine reset does: a slot with several of them once. Absent if an implementation
   * resets each by itself when it is disposed. Never throws.
   * @param isFinal the guest has ended, and the functions will be disposed: their interrupts stay off
   */
  reset?(isFinal?: boolean): void;
}

/** Token of the port {@link PciFunctions}. */
export const PciFunctions = Symbol('PciFunctions');

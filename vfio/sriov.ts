/** SR-IOV: what a provider says of a device whose virtual functions (VFs) come and go while it is in use. */

/** A BAR that every VF of a device has. */
export interface VfBar {
  /** 0 to 5; a `memory64` BAR also uses the next register. */
  readonly index: number;
  /** What it decodes: VFs have no ports. */
  readonly kind: 'memory32' | 'memory64';
  /** Whether reads have no side effects. */
  readonly isPrefetchable: boolean;
  /** Bytes of one VF; a power of two. */
  readonly size: bigint;
}

/**
 * The VFs that a device can have. Its own configuration space has no SR-IOV capability: as with BARs and messages, its user
 * emulates the registers, and calls {@link create} when the guest enables VFs. A user that does not know this interface
 * shows its guest a device without VFs.
 */
export interface SriovFunctions<Vf> {
  /** Offset of the 64 bytes of extended configuration space that the device leaves to the capability; a multiple of 4. */
  readonly capabilityAt: number;
  /** TotalVFs and InitialVFs. */
  readonly totalVfs: number;
  /** VF Device ID; the vendor is the physical function's. */
  readonly deviceId: number;
  /** BARs of each VF. */
  readonly bars: readonly VfBar[];
  /**
   * Creates a VF: a device of its own, which its user disposes when the guest disables VFs.
   * @param index from 0 to {@link totalVfs} - 1
   * @throws SysError EINVAL for another index; EEXIST while that VF exists; else as for any device that is created
   */
  create(index: number): Vf;
}

/** The same VFs, created by another function. */
export function sriovWith<Vf>(
  { capabilityAt, totalVfs, deviceId, bars }: SriovFunctions<unknown>,
  create: (index: number) => Vf,
): SriovFunctions<Vf> {
  return { capabilityAt, totalVfs, deviceId, bars, create };
}

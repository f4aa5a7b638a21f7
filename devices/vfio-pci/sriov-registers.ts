/** The registers of an SR-IOV capability. @see PCI Express Base 6.0, 9.3.3 */
import type { VfPlaces } from '../../vfio/assign/index.js';
import type { SriovFunctions, VfBar } from '../../vfio/sriov.js';
import { addBar, type BarShape, barAddress } from '../pci/bar.js';
import type { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_SRIOV_SIZEOF,
  PCI_SRIOV_BAR,
  PCI_SRIOV_CTRL,
  PCI_SRIOV_CTRL_MSE,
  PCI_SRIOV_CTRL_VFE,
  PCI_SRIOV_FUNC_LINK,
  PCI_SRIOV_INITIAL_VF,
  PCI_SRIOV_NUM_VF,
  PCI_SRIOV_SUP_PGSIZE,
  PCI_SRIOV_SYS_PGSIZE,
  PCI_SRIOV_TOTAL_VF,
  PCI_SRIOV_VF_DID,
  PCI_SRIOV_VF_OFFSET,
  PCI_SRIOV_VF_STRIDE,
  PCI_STD_NUM_BARS,
} from '../pci/pci-regs.js';

/** What the capability says. */
export interface SriovPlan {
  readonly source: SriovFunctions<unknown>;
  readonly places: Pick<VfPlaces, 'function' | 'firstOffset' | 'stride'>;
}

const VERSION = 1;
/** 4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB and 4 MiB: those that every device must support. */
const PAGE_SIZES = 0x553;
const SMALLEST_PAGE = 1;
const CONTROL_BITS = PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE;
const MOST_VFS = 0xffff;
const LOW_END = 1n << 32n;
const HIGH_END = 1n << 64n;

/**
 * Why a guest cannot have these VFs; undefined if it can.
 * @param others offsets of the device's own extended capabilities
 */
export function sriovProblem(
  { capabilityAt: at, totalVfs, bars }: SriovFunctions<unknown>,
  others: readonly number[],
): string | undefined {
  const end = at + PCI_EXT_CAP_SRIOV_SIZEOF;
  if (at % 4 !== 0 || !(at >= PCI_CFG_SPACE_SIZE && end <= PCI_CFG_SPACE_EXP_SIZE))
    return `the capability cannot be at 0x${at.toString(16)}`;
  if (others.some((other) => other >= at && other < end))
    return `a capability of the device is at 0x${at.toString(16)}, too`;
  if (!Number.isInteger(totalVfs) || totalVfs < 1 || totalVfs > MOST_VFS)
    return `${totalVfs} virtual functions`;
  let next = 0;
  for (const { index, kind, size } of bars) {
    const registers = kind === 'memory64' ? 2 : 1;
    const isThere = index >= next && index + registers <= PCI_STD_NUM_BARS;
    const most = kind === 'memory64' ? HIGH_END : LOW_END;
    if (!isThere || size <= 0n || (size & (size - 1n)) !== 0n || size >= most)
      return `VF BAR ${index} of ${size} bytes`;
    next = index + registers;
  }
  return undefined;
}

/** Adds the capability to a configuration space, with the values of power-on. */
export function addSriovRegisters(space: ConfigSpace, { source, places }: SriovPlan): void {
  const { capabilityAt: at, totalVfs, deviceId } = source;
  space.set(at, 4, PCI_EXT_CAP_ID_SRIOV | (VERSION << 16));
  space.set(at + PCI_SRIOV_INITIAL_VF, 2, totalVfs);
  space.set(at + PCI_SRIOV_TOTAL_VF, 2, totalVfs);
  space.set(at + PCI_SRIOV_FUNC_LINK, 1, places.function);
  space.set(at + PCI_SRIOV_VF_OFFSET, 2, places.firstOffset);
  space.set(at + PCI_SRIOV_VF_STRIDE, 2, places.stride);
  space.set(at + PCI_SRIOV_VF_DID, 2, deviceId);
  space.set(at + PCI_SRIOV_SUP_PGSIZE, 4, PAGE_SIZES);
  space.allow(at + PCI_SRIOV_CTRL, 2, CONTROL_BITS);
  new SriovRegisters(space, source).reset();
}

/** The registers that a guest writes, in a space with the capability. */
export class SriovRegisters {
  readonly #space: ConfigSpace;
  readonly #at: number;
  readonly #bars: readonly VfBar[];
  #pageBytes = 0n;

  constructor(space: ConfigSpace, { capabilityAt, bars }: SriovFunctions<unknown>) {
    this.#space = space;
    this.#at = capabilityAt;
    this.#bars = bars;
  }

  /** Whether an access reaches the capability. */
  touches(offset: number, bytes: number): boolean {
    return offset < this.#at + PCI_EXT_CAP_SRIOV_SIZEOF && this.#at < offset + bytes;
  }

  /** VF Enable. */
  get isEnabled(): boolean {
    return (this.#control & PCI_SRIOV_CTRL_VFE) !== 0;
  }

  /** VF MSE: whether the VFs decode memory. */
  get isDecoding(): boolean {
    return (this.#control & PCI_SRIOV_CTRL_MSE) !== 0;
  }

  get numVfs(): number {
    return this.#space.read(this.#at + PCI_SRIOV_NUM_VF, 2);
  }

  /** NumVFs and System Page Size do not change while VFs are enabled. */
  lock(isLocked: boolean): void {
    this.#space.allow(this.#at + PCI_SRIOV_NUM_VF, 2, isLocked ? 0 : 0xffff);
    this.#space.allow(this.#at + PCI_SRIOV_SYS_PGSIZE, 4, isLocked ? 0 : PAGE_SIZES);
  }

  /** Gives the VF BARs the size that System Page Size asks for; their addresses lose the bits that it leaves no room for. */
  resize(): void {
    const bytes = this.#systemPage;
    if (bytes === this.#pageBytes) return;
    this.#pageBytes = bytes;
    for (const bar of this.#bars) {
      const at = this.#register(bar);
      const [low, high] = [this.#space.read(at, 4), this.#space.read(at + 4, 4)];
      addBar(this.#space, this.#shape(bar), at);
      this.#space.write(at, 4, low);
      if (bar.kind === 'memory64') this.#space.write(at + 4, 4, high);
    }
  }

  /** The values of power-on. */
  reset(): void {
    this.#space.set(this.#at + PCI_SRIOV_CTRL, 2, 0);
    this.#space.set(this.#at + PCI_SRIOV_NUM_VF, 2, 0);
    this.#space.set(this.#at + PCI_SRIOV_SYS_PGSIZE, 4, SMALLEST_PAGE);
    this.lock(false);
    this.#pageBytes = BigInt(SMALLEST_PAGE) << 12n;
    for (const bar of this.#bars) addBar(this.#space, this.#shape(bar), this.#register(bar));
  }

  /** Where a VF's BAR is decoded; undefined while the register holds a sizing probe, or if it would end past its width. */
  address(bar: VfBar, vf: number): bigint | undefined {
    const shape = this.#shape(bar);
    const base = barAddress(this.#space, shape, this.#register(bar));
    if (base === undefined) return undefined;
    const address = base + BigInt(vf) * shape.size;
    return address + shape.size > (bar.kind === 'memory64' ? HIGH_END : LOW_END) ? undefined : address;
  }

  get #control(): number {
    return this.#space.read(this.#at + PCI_SRIOV_CTRL, 2);
  }

  /** What VF BARs are aligned to. A value that is no page size is taken as the smallest of those that it has bits of. */
  get #systemPage(): bigint {
    const sizes = this.#space.read(this.#at + PCI_SRIOV_SYS_PGSIZE, 4) & PAGE_SIZES;
    return BigInt(sizes & -sizes || SMALLEST_PAGE) << 12n;
  }

  #register({ index }: VfBar): number {
    return this.#at + PCI_SRIOV_BAR + 4 * index;
  }

  /** What one VF takes of the address space. */
  #shape(bar: VfBar): BarShape {
    return { ...bar, size: bar.size > this.#pageBytes ? bar.size : this.#pageBytes };
  }
}

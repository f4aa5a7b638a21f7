import {
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
} from '../../../vfio/uapi.js';

/** A register of a device, as its data sheet has it. */
export interface Register {
  /** Its name in reports and traces: `HST_STS`. Unique in the device. */
  readonly name: string;
  /** Index of its VFIO region: 0 to 5 for BARs, VFIO_PCI_CONFIG_REGION_INDEX for configuration space. */
  readonly region: number;
  /** Offset in the region, in bytes. */
  readonly offset: number;
  /** In bytes; 4 if absent. */
  readonly size?: number;
  /** What drivers may do with it: `rw` if absent. */
  readonly access?: 'rw' | 'ro' | 'wo';
  /** Value after a reset; absent if it has none that is always the same. */
  readonly reset?: number;
  /** False for a register that the hardware has and the device lacks: what a driver does there, the burn-down lists. */
  readonly isModelled?: boolean;
  /** Whether reading the same value again and again is normal, as of a FIFO: it is then never what a guest spins on. */
  readonly isFifo?: boolean;
}

/** Part of an access that lies in one register, or in none. */
export interface AccessPart {
  /** The register; undefined if none is declared there. */
  readonly register: Register | undefined;
  /** The register's name, `+N` after it for bytes inside; of bytes without a register, region and offset: `bar0+0x1c`. */
  readonly name: string;
  readonly offset: number;
  /** In bytes, 4 at most. */
  readonly size: number;
}

/** Bytes of a part: numbers hold 32 bits exactly, and a register of 64 bits is accessed in halves. */
const MOST_BYTES = 4;

export const sizeOf = ({ size = 4 }: Register): number => size;

/** `bar0`, `rom`, `config`, `region9`. */
export function regionName(region: number): string {
  if (region <= VFIO_PCI_BAR5_REGION_INDEX) return `bar${region}`;
  if (region === VFIO_PCI_ROM_REGION_INDEX) return 'rom';
  return region === VFIO_PCI_CONFIG_REGION_INDEX ? 'config' : `region${region}`;
}

const place = (region: number, offset: number): string => `${regionName(region)}+0x${offset.toString(16)}`;

/** The declared registers by region and offset. */
export class RegisterMap {
  readonly all: readonly Register[];
  /** Sorted by offset. */
  readonly #byRegion = new Map<number, Register[]>();

  /** @throws RangeError for two registers of one name, registers that overlap, or an impossible size, offset or reset value */
  constructor(registers: readonly Register[]) {
    this.all = [...registers];
    const names = new Set<string>();
    for (const register of registers) {
      const { name, region, offset } = register;
      const size = sizeOf(register);
      if (names.has(name)) throw new RangeError(`two registers have the name ${name}`);
      names.add(name);
      for (const [what, value, least] of [
        ['region', region, 0],
        ['offset', offset, 0],
        ['size', size, 1],
        ['reset value', register.reset ?? 0, 0],
      ] as const)
        if (!Number.isSafeInteger(value) || value < least)
          throw new RangeError(`register ${name}: the ${what} ${value} is not a whole number from ${least}`);
      if (register.reset !== undefined && register.reset >= 2 ** (8 * size))
        throw new RangeError(
          `register ${name}: the reset value ${register.reset} has more than ${size} bytes`,
        );
      const list = this.#byRegion.get(region);
      if (list === undefined) this.#byRegion.set(region, [register]);
      else list.push(register);
    }
    for (const list of this.#byRegion.values()) {
      list.sort((a, b) => a.offset - b.offset);
      list.forEach((register, i) => {
        const before = list[i - 1];
        if (before !== undefined && before.offset + sizeOf(before) > register.offset)
          throw new RangeError(`registers ${before.name} and ${register.name} overlap`);
      });
    }
  }

  /** Whether a register of the region is declared. */
  hasRegion(region: number): boolean {
    return this.#byRegion.has(region);
  }

  /** Splits an access at the borders of registers, and into four bytes at most. */
  *parts(region: number, offset: number, bytes: number): Generator<AccessPart> {
    const list = this.#byRegion.get(region) ?? [];
    const end = offset + bytes;
    for (let at = offset; at < end; ) {
      const next = firstEndingAfter(list, at);
      const register = next !== undefined && next.offset <= at ? next : undefined;
      const border = register === undefined ? (next?.offset ?? end) : register.offset + sizeOf(register);
      const size = Math.min(end, border, at + MOST_BYTES) - at;
      const inside = register === undefined || register.offset === at ? '' : `+${at - register.offset}`;
      const name = register === undefined ? place(region, at) : `${register.name}${inside}`;
      yield { register, name, offset: at, size };
      at += size;
    }
  }
}

/** By bisection: each access of a driver asks. */
function firstEndingAfter(list: readonly Register[], at: number): Register | undefined {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const { offset } = list[middle] as Register;
    if (offset + sizeOf(list[middle] as Register) > at) high = middle;
    else low = middle + 1;
  }
  return list[low];
}

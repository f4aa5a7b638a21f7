/** Assigns BARs before boot, as firmware does, for guests that cannot learn the windows from ACPI. */
import type { AddressWindow, PciFunction } from '../contracts.js';
import { barRegister, decodeBarType } from './bar.js';
import {
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_MASK,
  PCI_HEADER_TYPE_NORMAL,
  PCI_ROM_ADDRESS,
  PCI_STD_NUM_BARS,
} from './pci-regs.js';

const ALL_ONES = 0xffffffff;
const MEMORY_FLAGS = 0xf;
const IO_FLAGS = 0x3;
const ROM_FLAGS = 0x7ff;
const END_OF_32_BITS = 1n << 32n;

/** A BAR of a function, or its expansion ROM. */
export interface FoundBar {
  /** The function's name. */
  readonly function: string;
  /** Offset of its register. */
  readonly register: number;
  /** The bus that it is decoded on. */
  readonly kind: AddressWindow['kind'];
  /** Whether the next register is its upper half. */
  readonly is64: boolean;
  /** Bytes, or number of ports; a power of two. */
  readonly size: bigint;
}

/** A BAR with the address that its registers now hold; undefined if no window had room: the registers hold 0. */
export interface AssignedAddress extends FoundBar {
  /** First byte or port. */
  readonly base: bigint | undefined;
}

const low32 = (value: bigint): number => Number(value & 0xffffffffn);

/** Finds a function's BARs by the sizing protocol: write all-ones, read the size back. Leaves the registers at 0. */
function findBars(pci: PciFunction): FoundBar[] {
  const probe = (register: number): number => {
    pci.configWrite(register, 4, ALL_ONES);
    const value = pci.configRead(register, 4);
    pci.configWrite(register, 4, 0);
    return value >>> 0;
  };
  const found: FoundBar[] = [];
  const add = (bar: Omit<FoundBar, 'function'>): void => void found.push({ function: pci.name, ...bar });
  for (let index = 0; index < PCI_STD_NUM_BARS; index++) {
    const register = barRegister(index);
    const value = probe(register);
    if (value === 0) continue;
    if ((value & PCI_BASE_ADDRESS_SPACE_IO) !== 0) {
      // The upper half may be hard-wired to 0.
      const size = BigInt(-(value & ~IO_FLAGS & 0xffff) & 0xffff);
      if (size > 0n) add({ register, kind: 'pio', is64: false, size });
      continue;
    }
    const is64 = decodeBarType(index, value).kind === 'memory64';
    const high = is64 ? BigInt(probe(register + 4)) : 0xffffffffn;
    const mask = (high << 32n) | BigInt((value & ~MEMORY_FLAGS) >>> 0);
    const size = -mask & 0xffffffffffffffffn;
    if (mask !== 0n) add({ register, kind: 'mmio', is64, size });
    if (is64) index++;
  }
  const rom = probe(PCI_ROM_ADDRESS) & ~ROM_FLAGS;
  if (rom !== 0)
    add({ register: PCI_ROM_ADDRESS, kind: 'mmio', is64: false, size: BigInt(-(rom | 0)) & 0xffffffffn });
  return found;
}

/** Hands out the addresses of windows, each naturally aligned and once. */
class Space {
  readonly #windows: readonly AddressWindow[];
  /** By window: the first address that is free. */
  readonly #next: bigint[];

  constructor(windows: readonly AddressWindow[]) {
    this.#windows = windows;
    this.#next = windows.map(({ base }) => base);
  }

  /** The lowest free address of a BAR, in the first window that has room. Address 0 means "not assigned" to guests. */
  take({ kind, is64, size }: FoundBar): bigint | undefined {
    for (const [i, window] of this.#windows.entries()) {
      if (window.kind !== kind) continue;
      let base = ((this.#next[i] as bigint) + size - 1n) & -size;
      if (base === 0n) base = size;
      const end = base + size;
      if (end > window.base + window.bytes || (kind === 'mmio' && !is64 && end > END_OF_32_BITS)) continue;
      this.#next[i] = end;
      return base;
    }
    return undefined;
  }
}

/**
 * Assigns the BARs and ROMs of all functions, with decoding disabled: a guest's drivers enable it. Those that are limited to
 * 32 bits come first, the largest before the smaller ones; 64-bit BARs go below 4 GiB as long as there is room, so that a
 * guest without the windows' addresses can use them. Functions with another header than an endpoint's are left alone.
 * @param windows as in PciEnvironment.windows, in the order of preference
 */
export function assignBars(
  functions: Iterable<PciFunction>,
  windows: readonly AddressWindow[],
): readonly AssignedAddress[] {
  const found: { readonly pci: PciFunction; readonly bar: FoundBar }[] = [];
  for (const pci of functions) {
    if ((pci.configRead(PCI_HEADER_TYPE, 1) & PCI_HEADER_TYPE_MASK) !== PCI_HEADER_TYPE_NORMAL) continue;
    const command = pci.configRead(PCI_COMMAND, 2);
    const decode = PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
    if ((command & decode) !== 0) pci.configWrite(PCI_COMMAND, 2, command & ~decode);
    for (const bar of findBars(pci)) found.push({ pci, bar });
  }
  found.sort((a, b) => {
    if (a.bar.is64 !== b.bar.is64) return a.bar.is64 ? 1 : -1;
    return a.bar.size > b.bar.size ? -1 : a.bar.size < b.bar.size ? 1 : 0;
  });
  const space = new Space(windows);
  return found.map(({ pci, bar }) => {
    const base = space.take(bar);
    if (base !== undefined) {
      pci.configWrite(bar.register, 4, low32(base));
      if (bar.is64) pci.configWrite(bar.register + 4, 4, low32(base >> 32n));
    }
    return { ...bar, base };
  });
}

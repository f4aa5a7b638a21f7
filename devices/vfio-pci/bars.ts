import { Scope } from '../../sys/scope.js';
import type { BarState } from '../../vfio/assign/index.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import {
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_FLAG_READ,
} from '../../vfio/uapi.js';
import type { AddressWindow, PciEnvironment } from '../contracts.js';
import {
  type BarShape,
  barAddress,
  barBus,
  barRegister,
  barSize,
  decodeBarType,
  romAddress,
  romSize,
} from '../pci/bar.js';
import type { ConfigSpace } from '../pci/config-space.js';
import { PCI_MSIX_ENTRY_SIZE, PCI_STD_NUM_BARS } from '../pci/pci-regs.js';
import { AssignedBar, type AssignedBarInit } from './assigned-bar.js';
import { type BarRequest, placeBars } from './bar-placement.js';
import type { ConfigReader } from './capabilities.js';
import type { Msix, MsixShape, PlacedArea } from './msix.js';
import { attempt, noteMisuse } from './notes.js';
import { Region } from './region.js';
import { Rom } from './rom.js';
import { TrappedBar } from './trapped-bar.js';

/** A BAR and its region. */
export interface BarRegion {
  readonly shape: BarShape;
  readonly region: Region;
}

/** The regions that a guest accesses through BARs. */
export interface BarRegions {
  readonly bars: readonly BarRegion[];
  /** `size` is that of the ROM's BAR. */
  readonly rom: { readonly region: Region; readonly size: bigint } | undefined;
}

/** Which BARs the guest lets the device decode, by the command register and power state. */
export interface Decode {
  readonly memory: boolean;
  readonly io: boolean;
}

export const NO_DECODE: Decode = { memory: false, io: false };

/** Pairs each region with its BAR: the size comes from the region, the type from the device's register. */
export function findBarRegions(
  name: string,
  file: DeviceFile,
  read: ConfigReader,
  numRegions: number,
): BarRegions {
  const bars: BarRegion[] = [];
  for (let index = 0; index < PCI_STD_NUM_BARS; index++) {
    const region = Region.open(name, file, VFIO_PCI_BAR0_REGION_INDEX + index);
    if (region.size === 0) continue;
    const type = decodeBarType(index, read(barRegister(index), 4));
    bars.push({ shape: { index, ...type, size: barSize(type.kind, BigInt(region.size)) }, region });
    // The next register is its upper half.
    if (type.kind === 'memory64') index++;
  }
  if (numRegions <= VFIO_PCI_ROM_REGION_INDEX) return { bars, rom: undefined };
  const info = file.getRegionInfo(VFIO_PCI_ROM_REGION_INDEX);
  if (info.size === 0 || (info.flags & VFIO_REGION_INFO_FLAG_READ) === 0) return { bars, rom: undefined };
  // Never mapped itself, even if it could be: it is copied.
  const region = new Region(name, file, { ...info, flags: VFIO_REGION_INFO_FLAG_READ });
  return { bars, rom: { region, size: romSize(BigInt(info.size)) } };
}

interface Entry {
  readonly bar: AssignedBar;
  /** The address in the BAR's registers; undefined while they hold a sizing probe, or the ROM is disabled. */
  address(): bigint | undefined;
  /** The last refusal that was noted, so that it is noted once. */
  refused: string | undefined;
}

/**
 * A device's BARs and ROM. {@link Bars.update} makes what the guest sees match the registers, whatever was decoded
 * before: slots, trapped ranges and doorbells of a BAR appear, move and disappear together.
 */
export class Bars implements Disposable {
  readonly #name: string;
  readonly #entries: readonly Entry[];
  readonly #traps: ReadonlyMap<number, TrappedBar>;
  readonly #windows: readonly AddressWindow[];
  readonly #owned: Scope;

  private constructor(
    name: string,
    entries: readonly Entry[],
    traps: ReadonlyMap<number, TrappedBar>,
    windows: readonly AddressWindow[],
    owned: Scope,
  ) {
    this.#name = name;
    this.#entries = entries;
    this.#traps = traps;
    this.#windows = windows;
    this.#owned = owned;
  }

  /** @param space holds the guest's BAR registers */
  static open(
    name: string,
    file: DeviceFile,
    regions: BarRegions,
    msix: MsixShape | undefined,
    space: ConfigSpace,
    environment: PciEnvironment,
  ): Bars {
    using scope = new Scope();
    const entries: Entry[] = [];
    const traps = new Map<number, TrappedBar>();
    const add = (init: AssignedBarInit, address: Entry['address']): void => {
      const bar = scope.own(AssignedBar.open(name, init, file, environment));
      entries.push({ bar, address, refused: undefined });
    };
    for (const { shape, region } of regions.bars) {
      const { index, size } = shape;
      const label = `BAR${index}`;
      const trapped = new TrappedBar(`${name} ${label}`, region);
      traps.set(index, trapped);
      const areas = msix === undefined ? [] : [msix.table, msix.pba].filter(({ bar }) => bar === index);
      const doorbells = file.getRegionIoFds(region.info.index);
      const bus = barBus(shape);
      const init = { label, type: typeOf(shape), what: 'bar', bus, size, region, msix: areas } as const;
      add({ ...init, doorbells, trapped }, () => barAddress(space, shape));
    }
    if (regions.rom !== undefined) {
      const { region, size } = regions.rom;
      const trapped = scope.own(new Rom(name, region, Number(size)));
      const init = { label: 'ROM', type: 'expansion ROM', what: 'rom', bus: 'mmio', size, region } as const;
      add({ ...init, msix: [], doorbells: [], trapped, rom: trapped }, () => romAddress(space, size));
    }
    return new Bars(name, entries, traps, environment.windows, scope.move());
  }

  /** The BARs, and then the ROM. */
  get states(): readonly BarState[] {
    return this.#entries.map(({ bar }) => bar.state);
  }

  /** Forwards accesses to the MSI-X table and PBA to `msix`, in the BARs that hold them. @see TrappedBar.attach */
  attachMsix(msix: Msix, isForwarded: boolean): void {
    for (const bar of new Set([msix.shape.table.bar, msix.shape.pba.bar])) {
      this.#traps.get(bar)?.attach(msix, bar, isForwarded);
    }
  }

  /** Writes the whole MSI-X table, entry by entry, as a guest does. */
  writeMsixTable({ bar, offset }: PlacedArea, table: Uint8Array): void {
    const trap = this.#traps.get(bar);
    for (let at = 0; at < table.length; at += PCI_MSIX_ENTRY_SIZE)
      trap?.write(offset + at, table.subarray(at, at + PCI_MSIX_ENTRY_SIZE));
  }

  /** Hides, moves and shows BARs until the guest sees what the registers say. */
  update(decode: Decode): void {
    const requests = this.#entries.map(({ bar, address }): BarRequest => {
      const isDecoded = bar.bus === 'mmio' ? decode.memory : decode.io;
      return { label: bar.label, kind: bar.bus, base: isDecoded ? address() : undefined, bytes: bar.size };
    });
    const placements = placeBars(requests, this.#windows);
    // Hide first: a BAR may move to an address that another one leaves.
    for (const [i, { bar }] of this.#entries.entries()) {
      const placement = placements[i];
      const base = placement !== undefined && 'base' in placement ? placement.base : undefined;
      if (bar.base !== undefined && bar.base !== base) bar.hide();
    }
    for (const [i, entry] of this.#entries.entries()) {
      const placement = placements[i];
      let refusal: string | undefined;
      if (placement !== undefined && 'refusal' in placement) refusal = placement.refusal;
      else if (placement !== undefined && entry.bar.base === undefined)
        refusal = entry.bar.show(placement.base);
      this.#noteRefusal(entry, requests[i]?.base, refusal);
    }
  }

  [Symbol.dispose](): void {
    attempt(this.#name, 'close', () => this.#owned[Symbol.dispose]());
  }

  #noteRefusal(entry: Entry, base: bigint | undefined, refusal: string | undefined): void {
    const text =
      base === undefined || refusal === undefined
        ? undefined
        : `${entry.bar.label} at 0x${base.toString(16)} is not decoded: ${refusal}`;
    if (text !== undefined && text !== entry.refused) noteMisuse(this.#name, entry.bar.what, text);
    entry.refused = text;
  }
}

function typeOf(shape: BarShape): string {
  if (shape.kind === 'io') return 'I/O';
  const width = shape.kind === 'memory64' ? '64-bit' : '32-bit';
  return shape.isPrefetchable ? `${width} prefetchable` : width;
}

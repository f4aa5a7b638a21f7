/** The regions of a PCI function as a table: the driver declares them, the table dispatches accesses to them. */
import { PAGE_SIZE } from '../../sys/address.js';
import { Mapping, type SharedMemory } from '../../sys/mapping.js';
import { trace } from '../../sys/trace.js';
import {
  type DeviceInfo,
  type RegionArea,
  type RegionCapability,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { addBar, addRomBar, type BarKind, barSize, romSize } from '../pci/bar.js';
import type { ConfigSpace } from '../pci/config-space.js';
import { PCI_COMMAND, PCI_COMMAND_IO, PCI_COMMAND_MEMORY, PCI_STD_NUM_BARS } from '../pci/pci-regs.js';
import { memoryAccess, type RegionAccess } from './region-access.js';

/** A part of a region with access functions of its own. Areas of a region must not overlap. */
export interface RegisterArea extends RegionArea, RegionAccess {}

/** The contents of a region. `read`, `write` and `ioFds` apply to the bytes that no area covers. */
export interface RegionContents extends RegionAccess {
  /** Bytes. */
  readonly size: number;
  /** Parts with access functions of their own. */
  readonly areas?: readonly RegisterArea[];
  /**
   * Shared memory behind the region, at least `size` bytes. Users can map every page that no area touches. Trapped
   * accesses outside the areas go to it as well, unless `read` or `write` replaces that. The driver owns it.
   */
  readonly memory?: SharedMemory;
}

/** A base address register and its region. The size is a power of two. */
export interface BarRegion extends RegionContents {
  /** 0 to 5. A `memory64` BAR also uses the next register. */
  readonly index: number;
  /** `memory32` if absent. */
  readonly kind?: BarKind;
  /** Whether the BAR is marked as prefetchable; false if absent. */
  readonly isPrefetchable?: boolean;
}

/**
 * A device-specific region (VFIO_REGION_INFO_CAP_TYPE): readable with a `read` or memory, writable with a `write` or
 * memory.
 */
export interface TypedRegion extends RegionContents {
  /** VFIO_REGION_TYPE_: the namespace of `subtype`. */
  readonly type: number;
  /** VFIO_REGION_SUBTYPE_: the region's purpose. */
  readonly subtype: number;
}

/** Configuration space. The table adds the registers of the BARs to it. */
export interface ConfigRegion {
  /**
   * Creates the space in its initial state. A BAR is decoded only while PCI_COMMAND_MEMORY or PCI_COMMAND_IO is set, so
   * set the bits that the BARs need, or make them writable.
   */
  create(): ConfigSpace;
  /** Called once the registers of the BARs are in the space. */
  complete?(space: ConfigSpace): void;
  /** Called before each read: update the registers that reflect the device's state. */
  beforeRead?(space: ConfigSpace, offset: number, bytes: number): void;
  /** Called after each write: apply the registers to the device. */
  afterWrite?(space: ConfigSpace, offset: number, bytes: number): void;
}

/** The regions that a PCI function has. */
export interface PciRegionTable {
  /** If absent, the function has no configuration space, and its BARs are always decoded. */
  readonly config?: ConfigRegion;
  /** In any order. */
  readonly bars: readonly BarRegion[];
  /**
   * The image of the expansion ROM; absent if the function has none. Its BAR has the next power of two, at least 2 KiB, and
   * reads as all-ones past the image. As in vfio-pci, the region can be read while memory is decoded, whether or not the
   * BAR's enable bit is set.
   */
  readonly rom?: Uint8Array;
  /** Device-specific regions. The first one has the index VFIO_PCI_NUM_REGIONS. */
  readonly typed?: readonly TypedRegion[];
}

/** A range of a region that one set of access functions handles. */
interface Part {
  /** Offsets in the region; `access` takes offsets relative to `origin`. */
  readonly start: number;
  readonly end: number;
  readonly origin: number;
  readonly access: RegionAccess;
}

interface Region {
  readonly info: Omit<RegionInfo, 'offset'>;
  /** `BAR 4` */
  readonly name: string;
  /** The PCI_COMMAND bit that enables its decoding; 0 for a region that is not a BAR. */
  readonly decoding: number;
  /** Ascending; they cover the region. */
  readonly parts: readonly Part[];
  readonly ioFds: readonly RegionIoEventFd[];
  readonly memory: SharedMemory | undefined;
}

const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
const PAGE = Number(PAGE_SIZE);
const hex = (value: number): string => `0x${value.toString(16)}`;

/**
 * The regions of one function, and the functions of VfioDeviceOps derived from them: infos with flags and capabilities,
 * decoding by PCI_COMMAND, dispatch by area, mmap. Machine thread only. It owns nothing.
 *
 * No access fails: unclaimed reads return all-ones; unclaimed writes are dropped and reported to `trace.guestMisuse`.
 * An access that crosses the border of an area is split there.
 */
export class PciRegions {
  readonly #device: string;
  readonly #table: PciRegionTable;
  readonly #regions: (Region | undefined)[] = [];
  #config: ConfigSpace | undefined;

  /**
   * @param device the device's name, for trace events
   * @throws RangeError for areas that overlap or end past their region, a BAR's size that is not a power of two, BARs
   *   that share a register, or memory that is smaller than its region
   */
  constructor(device: string, table: PciRegionTable) {
    this.#device = device;
    this.#table = table;
    for (const bar of table.bars) this.#addBar(bar);
    if (table.rom !== undefined) this.#addRom(table.rom);
    for (const [i, typed] of (table.typed ?? []).entries()) this.#addTyped(VFIO_PCI_NUM_REGIONS + i, typed);
    this.resetConfig();
  }

  /** Recreates configuration space in its initial state; call it in openDevice. */
  resetConfig(): void {
    const { config, bars, rom } = this.#table;
    this.#config = config?.create();
    if (this.#config === undefined) return;
    for (const { index, size, kind = 'memory32', isPrefetchable = false } of bars)
      addBar(this.#config, { index, kind, isPrefetchable, size: BigInt(size) });
    if (rom !== undefined) addRomBar(this.#config, romSize(BigInt(rom.length)));
    config?.complete?.(this.#config);
  }

  /** The current PCI_COMMAND; without configuration space, with both decoding bits set. */
  get command(): number {
    return this.#config?.read(PCI_COMMAND, 2) ?? PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
  }

  /** @see VfioDeviceOps.getInfo. @param hasReset whether the device has a `reset` */
  getInfo(hasReset = true): DeviceInfo {
    return {
      flags: VFIO_DEVICE_FLAGS_PCI | (hasReset ? VFIO_DEVICE_FLAGS_RESET : 0),
      numRegions: VFIO_PCI_NUM_REGIONS + (this.#table.typed?.length ?? 0),
      numIrqs: VFIO_PCI_NUM_IRQS,
    };
  }

  /** @see VfioDeviceOps.getRegionInfo. An index without a region has size 0. */
  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX && this.#config !== undefined)
      return { index, flags: READ_WRITE, size: this.#config.size, capabilities: [] };
    return this.#regions[index]?.info ?? { index, flags: 0, size: 0, capabilities: [] };
  }

  /** @see VfioDeviceOps.getRegionIoFds */
  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    return this.#regions[index]?.ioFds ?? [];
  }

  /** @see VfioDeviceOps.mmap. @throws SysError as mmap(2); RangeError for a region without memory */
  mmap(index: number, offset: number, bytes: number): Mapping {
    const memory = this.#regions[index]?.memory;
    if (memory === undefined) throw new RangeError(`${this.#device}: region ${index} has no memory`);
    return Mapping.file(memory.fd, bytes, { offset, target: this.#device });
  }

  /** @see VfioDeviceOps.read. Returns the length of `data`: bytes past the region's end are all-ones. */
  read(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX && this.#config !== undefined) {
      this.#table.config?.beforeRead?.(this.#config, offset, data.length);
      this.#config.readBytes(offset, data);
      return data.length;
    }
    data.fill(0xff);
    const region = this.#regions[index];
    if (region !== undefined && this.#isDecoded(region, 'read')) this.#dispatch(region, offset, data, false);
    return data.length;
  }

  /** @see VfioDeviceOps.write. Returns the length of `data`: bytes past the region's end are dropped. */
  write(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX && this.#config !== undefined) {
      this.#config.writeBytes(offset, data);
      this.#table.config?.afterWrite?.(this.#config, offset, data.length);
      return data.length;
    }
    const region = this.#regions[index];
    if (region !== undefined && this.#isDecoded(region, 'write')) this.#dispatch(region, offset, data, true);
    return data.length;
  }

  /** Accesses a BAR whether or not it is decoded, as through a window in configuration space. */
  accessBar(index: number, offset: number, data: Uint8Array, isWrite: boolean): void {
    if (!isWrite) data.fill(0xff);
    const region = this.#regions[VFIO_PCI_BAR0_REGION_INDEX + index];
    if (region !== undefined) this.#dispatch(region, offset, data, isWrite);
  }

  #isDecoded({ decoding, name }: Region, what: string): boolean {
    if (decoding === 0 || (this.command & decoding) !== 0) return true;
    const kind = decoding === PCI_COMMAND_IO ? 'I/O' : 'memory';
    this.#reportMisuse(`${what} of ${name} while ${kind} decoding is off`);
    return false;
  }

  /** Splits an access at the borders of the region's parts. */
  #dispatch({ parts, name }: Region, offset: number, data: Uint8Array, isWrite: boolean): void {
    let done = 0;
    for (const { start, end, origin, access } of parts) {
      const at = offset + done;
      if (at >= end) continue;
      if (at < start || done === data.length) return;
      const bytes = Math.min(data.length - done, end - at);
      const piece = bytes === data.length ? data : data.subarray(done, done + bytes);
      if (!isWrite) access.read?.(at - origin, piece);
      else if (access.write !== undefined) access.write(at - origin, piece);
      else this.#reportMisuse(`write of ${bytes} bytes to ${hex(at)} of ${name}, which is read-only`);
      done += bytes;
    }
  }

  #addBar(bar: BarRegion): void {
    const { index, size, kind = 'memory32' } = bar;
    const name = `BAR ${index}`;
    const registers = kind === 'memory64' ? [index, index + 1] : [index];
    const isTaken = (register: number) =>
      register >= PCI_STD_NUM_BARS || this.#regions[VFIO_PCI_BAR0_REGION_INDEX + register] !== undefined;
    const upper = this.#table.bars.find((other) => other.kind === 'memory64' && other.index + 1 === index);
    if (!Number.isInteger(index) || index < 0 || registers.some(isTaken) || upper !== undefined)
      throw new RangeError(`${this.#device}: the registers of ${name} are not there, or taken`);
    if (barSize(kind, BigInt(size)) !== BigInt(size))
      throw new RangeError(`${this.#device}: ${name} cannot have ${size} bytes: sizes are powers of two`);
    const decoding = kind === 'io' ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    this.#add(VFIO_PCI_BAR0_REGION_INDEX + index, name, decoding, bar, READ_WRITE, []);
  }

  #addRom(image: Uint8Array): void {
    const size = Number(romSize(BigInt(image.length)));
    const read = (offset: number, data: Uint8Array) => data.set(image.subarray(offset, offset + data.length));
    const rights = VFIO_REGION_INFO_FLAG_READ;
    this.#add(VFIO_PCI_ROM_REGION_INDEX, 'the ROM', PCI_COMMAND_MEMORY, { size, read }, rights, []);
  }

  #addTyped(index: number, region: TypedRegion): void {
    const { type, subtype, memory, areas = [] } = region;
    const has = (right: 'read' | 'write') =>
      memory !== undefined || [region, ...areas].some((each) => each[right] !== undefined);
    const flags =
      (has('read') ? VFIO_REGION_INFO_FLAG_READ : 0) | (has('write') ? VFIO_REGION_INFO_FLAG_WRITE : 0);
    this.#add(index, `region ${index}`, 0, region, flags, [{ id: VFIO_REGION_INFO_CAP_TYPE, type, subtype }]);
  }

  #add(
    index: number,
    name: string,
    decoding: number,
    contents: RegionContents,
    rights: number,
    typed: readonly RegionCapability[],
  ): void {
    const { size, memory } = contents;
    if (memory !== undefined && memory.mapping.bytes < size)
      throw new RangeError(`${this.#device}: ${name} has ${size} bytes, its memory ${memory.mapping.bytes}`);
    const areas = [...(contents.areas ?? [])].sort((a, b) => a.offset - b.offset);
    const parts = layOutParts(contents, areas, `${this.#device}: ${name}`);
    const mappable = memory === undefined ? [] : mappablePages(size, areas);
    const sparse: readonly RegionCapability[] =
      areas.length > 0 && mappable.length > 0
        ? [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas: mappable }]
        : [];
    const capabilities = [...typed, ...sparse];
    const flags =
      rights |
      (mappable.length > 0 ? VFIO_REGION_INFO_FLAG_MMAP : 0) |
      (capabilities.length > 0 ? VFIO_REGION_INFO_FLAG_CAPS : 0);
    const info = { index, flags, size, capabilities };
    const ioFds = [{ ...contents, offset: 0 }, ...areas].flatMap(({ offset, ioFds = [] }) =>
      ioFds.map((ioFd) => ({ ...ioFd, offset: offset + ioFd.offset })),
    );
    this.#regions[index] = { info, name, decoding, parts, ioFds, memory };
  }

  #reportMisuse(text: string): void {
    if (trace.guestMisuse.hasSubscribers)
      trace.guestMisuse.publish({ device: this.#device, what: 'region', text });
  }
}

/** The areas and the gaps between them. @throws RangeError for areas that overlap or end past the region */
function layOutParts(contents: RegionContents, areas: readonly RegisterArea[], target: string): Part[] {
  const { size, memory, read, write } = contents;
  const fallback = memory === undefined ? {} : memoryAccess(memory.mapping);
  const rest: RegionAccess = { ...fallback, ...(read && { read }), ...(write && { write }) };
  const parts: Part[] = [];
  let at = 0;
  for (const area of areas) {
    const end = area.offset + area.size;
    if (area.offset < at || area.size <= 0 || end > size)
      throw new RangeError(
        `${target}: the area at ${hex(area.offset)} overlaps another one, or is not in it`,
      );
    if (area.offset > at) parts.push({ start: at, end: area.offset, origin: 0, access: rest });
    parts.push({ start: area.offset, end, origin: area.offset, access: area });
    at = end;
  }
  if (at < size) parts.push({ start: at, end: size, origin: 0, access: rest });
  return parts;
}

/** The page ranges of a region that no area touches. */
function mappablePages(size: number, areas: readonly RegisterArea[]): RegionArea[] {
  const pages: RegionArea[] = [];
  let at = 0;
  for (const area of [...areas, { offset: size, size: 0 }]) {
    const end = area.offset === size ? size : area.offset - (area.offset % PAGE);
    if (end > at) pages.push({ offset: at, size: end - at });
    at = Math.max(at, Math.ceil((area.offset + area.size) / PAGE) * PAGE);
  }
  return pages;
}

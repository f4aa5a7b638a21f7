import { gpa, PAGE_SIZE } from '../../sys/address.js';
import { isErrno } from '../../sys/error.js';
import type { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import type { BarState } from '../../vfio/assign/index.js';
import type { DeviceFile, RegionIoEventFd } from '../../vfio/uapi.js';
import type { Bus, BusDevice, PciEnvironment } from '../contracts.js';
import { appendSpan, type BarArea, type BarSpan, bytesOf, layOutBar } from './bar-layout.js';
import { attempt, errorText, formatBytes, type NoteSubject, note, plural } from './notes.js';
import { CountedBar } from './page-exits.js';
import type { Region } from './region.js';
import type { Rom } from './rom.js';

/** Parts of an {@link AssignedBar}. */
export interface AssignedBarInit {
  /** `BAR4` or `ROM`; follows the device's name in notes. */
  readonly label: string;
  /** `64-bit prefetchable`, for notes. */
  readonly type: string;
  readonly what: NoteSubject;
  readonly bus: Bus['kind'];
  /** Size that the guest sees, in bytes; a power of two. */
  readonly size: bigint;
  readonly region: Region;
  /** The parts of the MSI-X table and PBA that lie in this BAR. */
  readonly msix: readonly BarArea[];
  readonly doorbells: readonly RegionIoEventFd[];
  /** Handles all accesses that exit. */
  readonly trapped: BusDevice;
  /** For a ROM: its contents are mapped for reading, once the guest enables it. */
  readonly rom?: Pick<Rom, 'copy'>;
}

interface MappedSpan extends BarSpan {
  readonly mapping: Mapping;
}

/**
 * One BAR of an assigned device: its memory, mapped into this process once, and its place in the guest. While decoded,
 * the whole BAR is one range on the bus, with KVM slots and doorbells on top where the layout has them. So overlapping
 * BARs collide on the bus, and an access that hits neither slot nor doorbell is still handled.
 */
export class AssignedBar implements Disposable {
  readonly label: string;
  readonly what: NoteSubject;
  readonly bus: Bus['kind'];
  readonly size: bigint;
  readonly #name: string;
  readonly #type: string;
  readonly #trapped: CountedBar;
  readonly #spans: readonly BarSpan[];
  readonly #mapped: readonly MappedSpan[];
  readonly #rom: AssignedBarInit['rom'];
  readonly #doorbells: readonly RegionIoEventFd[];
  readonly #environment: PciEnvironment;
  readonly #owned: Scope;
  #base: bigint | undefined;
  #shown: Scope | undefined;

  private constructor(
    name: string,
    init: AssignedBarInit,
    spans: readonly BarSpan[],
    mapped: readonly MappedSpan[],
    environment: PciEnvironment,
    owned: Scope,
  ) {
    this.#name = name;
    this.label = init.label;
    this.what = init.what;
    this.bus = init.bus;
    this.size = init.size;
    this.#type = init.type;
    this.#spans = spans;
    this.#trapped = new CountedBar(init.trapped);
    this.#mapped = mapped;
    this.#rom = init.rom;
    this.#doorbells = init.doorbells.filter((bell) => !mapped.some((span) => overlaps(span, bell)));
    this.#environment = environment;
    this.#owned = owned;
  }

  /** Maps what the layout says is mapped; falls back to trapping, with a note, if an mmap fails. */
  static open(
    name: string,
    init: AssignedBarInit,
    file: DeviceFile,
    environment: PciEnvironment,
  ): AssignedBar {
    const { region, label, what } = init;
    const layout = layOutBar({
      barSize: Number(init.size),
      regionSize: region.size,
      flags: init.bus === 'mmio' ? region.info.flags : 0,
      sparse: region.sparseAreas,
      msix: init.msix,
      pageSize: Number(PAGE_SIZE),
    });
    using scope = new Scope();
    const spans: BarSpan[] = [];
    const mapped: MappedSpan[] = [];
    for (const span of layout) {
      let { kind } = span;
      if (kind === 'mapped') {
        try {
          const mapping = scope.own(file.mmap(region.info.offset + span.offset, span.size));
          mapped.push({ ...span, mapping });
        } catch (error) {
          kind = 'trapped';
          note(name, what, `${label}: ${formatBytes(span.size)} falls back to trapping: ${errorText(error)}`);
        }
      }
      appendSpan(spans, { ...span, kind });
    }
    const bar = new AssignedBar(name, init, spans, mapped, environment, scope.move());
    note(
      name,
      what,
      `${label} ${formatBytes(init.size)} ${init.type}: ${init.rom === undefined ? describe(spans, bar.#doorbells) : 'read once, when the guest enables it'}`,
    );
    return bar;
  }

  /** Its current address; undefined while it is hidden. */
  get base(): bigint | undefined {
    return this.#base;
  }

  /** What it is and has cost. */
  get state(): BarState {
    const { label, bus } = this;
    return {
      label,
      type: this.#type,
      bus,
      bytes: Number(this.size),
      base: this.#base,
      parts:
        this.#rom === undefined
          ? this.#spans.map(({ offset, size, kind }) => ({ offset, bytes: size, kind }))
          : [],
      doorbells: this.#doorbells.map(({ offset, size }) => ({ offset, bytes: size })),
      exits: this.#trapped.pages,
      otherExits: this.#trapped.others,
    };
  }

  /** Decodes the BAR at an address. Returns the reason if it cannot, such as a collision. */
  show(base: bigint): string | undefined {
    try {
      using scope = new Scope();
      const { mmio, pio } = this.#environment;
      scope.own((this.bus === 'mmio' ? mmio : pio).add(base, this.size, this.#trapped));
      for (const span of this.#mapped) this.#map(base, span, scope);
      if (this.#rom !== undefined) this.#mapRom(base, this.#rom, scope);
      for (const bell of this.#doorbells) this.#addDoorbell(base, bell, scope);
      this.#shown = scope.move();
      this.#base = base;
      return undefined;
    } catch (error) {
      return errorText(error);
    }
  }

  hide(): void {
    const shown = this.#shown;
    if (shown === undefined) return;
    this.#shown = undefined;
    this.#base = undefined;
    attempt(this.#name, this.what, () => shown[Symbol.dispose]());
  }

  [Symbol.dispose](): void {
    this.hide();
    this.#owned[Symbol.dispose]();
  }

  /** @throws SysError EEXIST; any other failure falls back to trapping, which the range on the bus already does */
  #map(base: bigint, span: MappedSpan, scope: Scope): void {
    const name = `${this.#name} ${this.label}`;
    try {
      const at = gpa(base + BigInt(span.offset));
      scope.own(this.#environment.memory.map(at, span.mapping.hva, BigInt(span.size), name));
    } catch (error) {
      if (isErrno(error, 'EEXIST')) throw error;
      note(this.#name, this.what, `${this.label}: ${formatBytes(span.size)} trapped: ${errorText(error)}`);
    }
  }

  /** Where that fails, the range on the bus serves the same contents. @throws SysError EEXIST */
  #mapRom(base: bigint, rom: Pick<Rom, 'copy'>, scope: Scope): void {
    const { memory } = this.#environment;
    if (memory.mapReadonly === undefined || this.size < PAGE_SIZE) return;
    try {
      const name = `${this.#name} ${this.label}`;
      scope.own(memory.mapReadonly(gpa(base), rom.copy.hva, this.size, name));
    } catch (error) {
      if (isErrno(error, 'EEXIST')) throw error;
      note(this.#name, this.what, `${this.label}: trapped: ${errorText(error)}`);
    }
  }

  #addDoorbell(base: bigint, bell: RegionIoEventFd, scope: Scope): void {
    const bytes = bell.datamatch === undefined ? 0 : bell.size;
    attempt(this.#name, this.what, () => {
      const { doorbells } = this.#environment;
      scope.own(doorbells.add(this.bus, base + BigInt(bell.offset), bytes, bell.fd, bell.datamatch));
    });
  }
}

const overlaps = (a: BarArea, b: BarArea): boolean =>
  a.offset < b.offset + b.size && b.offset < a.offset + a.size;

function describe(spans: readonly BarSpan[], doorbells: readonly RegionIoEventFd[]): string {
  const parts: string[] = [];
  if (doorbells.length > 0) parts.push(plural(doorbells.length, 'doorbell range'));
  for (const kind of ['mapped', 'trapped'] as const) {
    const bytes = bytesOf(spans, kind);
    if (bytes > 0) parts.push(`${formatBytes(bytes)} ${kind}`);
  }
  return parts.join(', ');
}

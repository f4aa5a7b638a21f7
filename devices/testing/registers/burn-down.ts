import type { Register } from './register-map.js';
import type { RegisterAccess } from './register-trace.js';
import { type Spin, spinText } from './spin-watch.js';

/** A place that a driver used, and how. */
export interface TouchedRegister {
  /** The register's name; region and offset where none is declared: `bar0+0x1c`. */
  readonly name: string;
  /** Index of the VFIO region. */
  readonly region: number;
  /** In the region, in bytes. */
  readonly offset: number;
  /** Of the first access, in bytes. */
  readonly size: number;
  /** How often it was read. */
  readonly reads: number;
  /** How often it was written. */
  readonly writes: number;
  /** The first value written; absent if none was. */
  readonly firstWritten?: number;
}

/** What a driver did that the device does not answer for. */
export interface RegisterReport {
  /** Registers that the driver touched and the device lacks: not declared, or declared as not modelled. */
  readonly unmodelled: readonly TouchedRegister[];
  /** Registers that the driver wrote although they are read-only, or read although they are write-only. */
  readonly misused: readonly TouchedRegister[];
  /** Registers that the driver read in vain. */
  readonly spins: readonly Spin[];
  /** Accesses to places beyond the 1024 that each list has room for. */
  readonly droppedAccesses: number;
  /** Spins beyond the 32 that the list has room for. */
  readonly droppedSpins: number;
}

/** A driver in a guest may touch any offset. */
const MOST_PLACES = 1024;

type Counted = { -readonly [Key in keyof TouchedRegister]: TouchedRegister[Key] };

/** Counts of accesses that the device does not answer for. */
export class BurnDown {
  readonly #unmodelled = new Map<string, Counted>();
  readonly #misused = new Map<string, Counted>();
  #dropped = 0;

  see(access: RegisterAccess, register: Register | undefined): void {
    if (register === undefined || register.isModelled === false) this.#count(this.#unmodelled, access);
    else if (register.access === (access.kind === 'write' ? 'ro' : 'wo')) this.#count(this.#misused, access);
  }

  report(): Omit<RegisterReport, 'spins' | 'droppedSpins'> {
    const list = (places: ReadonlyMap<string, Counted>) =>
      [...places.values()]
        .map((place) => ({ ...place }))
        .sort((a, b) => a.region - b.region || a.offset - b.offset);
    return {
      unmodelled: list(this.#unmodelled),
      misused: list(this.#misused),
      droppedAccesses: this.#dropped,
    };
  }

  #count(places: Map<string, Counted>, { kind, name, region, offset, size, value }: RegisterAccess): void {
    let place = places.get(name);
    if (place === undefined) {
      if (places.size >= MOST_PLACES) {
        this.#dropped++;
        return;
      }
      place = { name, region, offset, size, reads: 0, writes: 0 };
      places.set(name, place);
    }
    if (kind === 'read') place.reads++;
    else {
      place.writes++;
      place.firstWritten ??= value;
    }
  }
}

function touchedText({ name, reads, writes, firstWritten }: TouchedRegister): string {
  const written = firstWritten === undefined ? '' : `, first 0x${firstWritten.toString(16)}`;
  return `  ${name.padEnd(16)} ${reads} reads, ${writes} writes${written}`;
}

/** A report for people; empty if there is nothing to say. */
export function reportText(report: RegisterReport): string {
  const { unmodelled, misused, spins, droppedAccesses, droppedSpins } = report;
  const section = (title: string, lines: readonly string[]) => (lines.length === 0 ? [] : [title, ...lines]);
  return [
    ...section('touched by the driver, and not modelled:', unmodelled.map(touchedText)),
    ...section('written though read-only, or read though write-only:', misused.map(touchedText)),
    ...section(
      'read in vain:',
      spins.map((spin) => `  ${spinText(spin)}`),
    ),
    ...(droppedAccesses === 0 ? [] : [`and ${droppedAccesses} accesses to other places`]),
    ...(droppedSpins === 0 ? [] : [`and ${droppedSpins} more spins`]),
  ].join('\n');
}

/** Which pages the kernel uses for mappings of this process, as /proc/self/smaps tells. */
import { readFileSync } from 'node:fs';

/** The pages of the mappings that a range lies in, which can be larger than the range. */
export interface PageUse {
  /** Size of their pages as the mappings were made, in bytes: 4096, or that of hugetlbfs. The largest, if they differ. */
  readonly pageBytes: number;
  /** Bytes of these mappings. */
  readonly mappedBytes: number;
  /** Bytes that are populated. */
  readonly residentBytes: number;
  /** Bytes of these that the kernel maps by huge pages: transparent ones, or of hugetlbfs. */
  readonly hugeBytes: number;
}

/** A mapping of the process. */
export interface SmapsEntry extends PageUse {
  readonly start: bigint;
  readonly end: bigint;
}

const KIB = 1024;
const HUGE: readonly string[] = [
  'AnonHugePages',
  'ShmemPmdMapped',
  'FilePmdMapped',
  'Shared_Hugetlb',
  'Private_Hugetlb',
];

/** Parses smaps: a line of the range, and a line for each figure, in KiB. */
export function parseSmaps(text: string): readonly SmapsEntry[] {
  const entries: SmapsEntry[] = [];
  let range: readonly [bigint, bigint] | undefined;
  let figures = new Map<string, number>();
  const finish = (): void => {
    if (range === undefined) return;
    const of = (name: string): number => (figures.get(name) ?? 0) * KIB;
    const hugetlb = of('Shared_Hugetlb') + of('Private_Hugetlb');
    entries.push({
      start: range[0],
      end: range[1],
      pageBytes: of('KernelPageSize'),
      mappedBytes: Number(range[1] - range[0]),
      residentBytes: of('Rss') + hugetlb, // which Rss leaves out
      hugeBytes: HUGE.reduce((sum, name) => sum + of(name), 0),
    });
  };
  for (const line of text.split('\n')) {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line) ?? [];
    if (start !== undefined && end !== undefined) {
      finish();
      range = [BigInt(`0x${start}`), BigInt(`0x${end}`)];
      figures = new Map();
      continue;
    }
    const [, name, kib] = /^(\w+): +(\d+) kB$/.exec(line) ?? [];
    if (name !== undefined) figures.set(name, Number(kib));
  }
  finish();
  return entries;
}

/** The pages of a range of addresses; undefined if nothing is mapped there. */
export function pagesOf(entries: readonly SmapsEntry[], start: bigint, bytes: bigint): PageUse | undefined {
  const found = entries.filter((entry) => entry.start < start + bytes && start < entry.end);
  if (found.length === 0) return undefined;
  const sum = (of: (entry: SmapsEntry) => number): number =>
    found.reduce((total, entry) => total + of(entry), 0);
  return {
    pageBytes: Math.max(...found.map(({ pageBytes }) => pageBytes)),
    mappedBytes: sum(({ mappedBytes }) => mappedBytes),
    residentBytes: sum(({ residentBytes }) => residentBytes),
    hugeBytes: sum(({ hugeBytes }) => hugeBytes),
  };
}

/** The mappings of this process; none if /proc is not there. Takes milliseconds for each GiB that is not in huge pages. */
export function ownMappings(): readonly SmapsEntry[] {
  try {
    return parseSmaps(readFileSync('/proc/self/smaps', 'utf8'));
  } catch {
    return [];
  }
}

import type { IommuInfo } from '../uapi.js';

type Ranges = IommuInfo['iovaRanges'];

/** The intersection; undefined if it is empty. As in {@link IommuInfo}, an empty list stands for all addresses. */
export function intersectRanges(a: Ranges, b: Ranges): Ranges | undefined {
  if (a.length === 0) return b;
  if (b.length === 0) return a;
  const common: Ranges[number][] = [];
  for (const x of a) {
    for (const y of b) {
      const start = x.start > y.start ? x.start : y.start;
      const last = x.last < y.last ? x.last : y.last;
      if (start <= last) common.push({ start, last });
    }
  }
  return common.length > 0 ? common : undefined;
}

/** Whether a single range contains all of it. */
export function isInRanges(ranges: Ranges, start: bigint, size: bigint): boolean {
  if (ranges.length === 0) return true;
  return ranges.some((range) => range.start <= start && start + size - 1n <= range.last);
}

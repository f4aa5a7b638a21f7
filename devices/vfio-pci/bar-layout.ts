import { VFIO_REGION_INFO_FLAG_MMAP } from '../../vfio/uapi.js';

/** Part of a BAR, in bytes from its start. */
export interface BarArea {
  readonly offset: number;
  readonly size: number;
}

/** Part of a BAR, and what a guest's access there does: reach memory directly, or exit. */
export interface BarSpan extends BarArea {
  readonly kind: 'mapped' | 'trapped';
}

export interface BarLayoutInput {
  /** What the guest sees: a power of two. */
  readonly barSize: number;
  /** What the device has behind it; at most `barSize`. */
  readonly regionSize: number;
  /** VFIO_REGION_INFO_FLAG_ bits. */
  readonly flags: number;
  /** Areas of VFIO_REGION_INFO_CAP_SPARSE_MMAP; undefined without that capability: all of the region. */
  readonly sparse?: readonly BarArea[] | undefined;
  /** The MSI-X table and PBA, as far as they lie in this BAR. */
  readonly msix: readonly BarArea[];
  /** The host's, a power of two: the unit of KVM memory slots. */
  readonly pageSize: number;
}

/**
 * Decides what of a BAR is mapped into the guest and what is trapped. The spans cover the BAR exactly once, in
 * order, and neighbours differ in kind. The rules:
 * - only whole host pages are mapped, and only where the region says they can be;
 * - a page that holds any byte of the MSI-X table or PBA is trapped. VFIO_REGION_INFO_CAP_MSIX_MAPPABLE changes nothing
 *   about that: it is the provider's leave to map the table, but a table that is mapped is one the guest writes host
 *   messages into, and its masking would go unseen;
 * - so a BAR smaller than a page is trapped, never expanded: the guest sees its true size, and whatever the guest puts
 *   into the rest of that page stays reachable;
 * - what lies behind the region's end (its size no power of two) is trapped, and reads all-ones.
 */
export function layOutBar(input: BarLayoutInput): BarSpan[] {
  const { barSize, regionSize, pageSize } = input;
  const down = (at: number): number => Math.floor(at / pageSize) * pageSize;
  const up = (at: number): number => Math.ceil(at / pageSize) * pageSize;
  const canMap = (input.flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0 && barSize >= pageSize;
  const areas = canMap ? (input.sparse ?? [{ offset: 0, size: regionSize }]) : [];
  // Inwards, as the areas' edges may be anywhere; outwards around what must be seen.
  const mappable = areas.map((area) => ({
    from: up(Math.max(area.offset, 0)),
    to: down(Math.min(area.offset + area.size, regionSize)),
  }));
  const holes = input.msix
    .filter((area) => area.size > 0)
    .map((area) => ({ from: down(area.offset), to: up(area.offset + area.size) }));

  const edges = [...mappable, ...holes].flatMap(({ from, to }) => [from, to]);
  const cuts = [...new Set([0, barSize, ...edges])].filter((at) => at >= 0 && at <= barSize);
  cuts.sort((a, b) => a - b);

  const covers = ({ from, to }: { from: number; to: number }, at: number): boolean => from <= at && at < to;
  const spans: BarSpan[] = [];
  for (const [i, offset] of cuts.slice(0, -1).entries()) {
    const size = (cuts[i + 1] as number) - offset;
    const isMapped =
      mappable.some((area) => covers(area, offset)) && !holes.some((area) => covers(area, offset));
    appendSpan(spans, { offset, size, kind: isMapped ? 'mapped' : 'trapped' });
  }
  return spans;
}

/** Appends a span that begins where the last one ends, as one with it if they are of a kind. */
export function appendSpan(spans: BarSpan[], span: BarSpan): void {
  const last = spans.at(-1);
  if (last?.kind === span.kind) spans[spans.length - 1] = { ...last, size: last.size + span.size };
  else spans.push(span);
}

/** Bytes of one kind in a layout. */
export const bytesOf = (spans: readonly BarSpan[], kind: BarSpan['kind']): number =>
  spans.reduce((sum, span) => (span.kind === kind ? sum + span.size : sum), 0);

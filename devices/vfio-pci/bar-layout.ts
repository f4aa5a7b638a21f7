import { VFIO_REGION_INFO_FLAG_MMAP } from '../../vfio/uapi.js';

/** Part of a BAR. Offset from its start and size in bytes. */
export interface BarArea {
  /** Offset in the BAR, in bytes. */
  readonly offset: number;
  /** Length in bytes. */
  readonly size: number;
}

/** Part of a BAR, and whether a guest's access to it reaches memory directly or exits. */
export interface BarSpan extends BarArea {
  /** `mapped` is a KVM memory slot, `trapped` exits. */
  readonly kind: 'mapped' | 'trapped';
}

/** Input of {@link layOutBar}. */
export interface BarLayoutInput {
  /** Size that the guest sees; a power of two. */
  readonly barSize: number;
  /** Size of the device's region; at most `barSize`. */
  readonly regionSize: number;
  /** VFIO_REGION_INFO_FLAG_… bits. */
  readonly flags: number;
  /** Areas of VFIO_REGION_INFO_CAP_SPARSE_MMAP; undefined without it: the whole region can be mapped. */
  readonly sparse?: readonly BarArea[] | undefined;
  /** The parts of the MSI-X table and PBA that lie in this BAR. */
  readonly msix: readonly BarArea[];
  /** The host's page size: the granularity of KVM memory slots. */
  readonly pageSize: number;
}

/**
 * Decides which parts of a BAR are mapped into the guest and which are trapped. The spans cover the BAR exactly once,
 * in order, and adjacent spans differ in kind. The rules:
 * - Only whole host pages are mapped, and only where the region allows it.
 * - A page that holds any byte of the MSI-X table or PBA is trapped. VFIO_REGION_INFO_CAP_MSIX_MAPPABLE does not change
 *   that: it permits mapping the table, but the guest would then write its own messages to the device, and masking
 *   would go unseen.
 * - A BAR smaller than a page is therefore trapped, never expanded: the guest sees its true size, and whatever the
 *   guest places in the rest of the page stays accessible.
 * - The part past the region's end (its size need not be a power of two) is trapped and reads all-ones.
 */
export function layOutBar(input: BarLayoutInput): BarSpan[] {
  const { barSize, regionSize, pageSize } = input;
  const down = (at: number): number => Math.floor(at / pageSize) * pageSize;
  const up = (at: number): number => Math.ceil(at / pageSize) * pageSize;
  const canMap = (input.flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0 && barSize >= pageSize;
  const areas = canMap ? (input.sparse ?? [{ offset: 0, size: regionSize }]) : [];
  // Shrink mappable areas to whole pages; grow the holes to whole pages.
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

/** Appends a span that starts where the last one ends; merges the two if they are of the same kind. */
export function appendSpan(spans: BarSpan[], span: BarSpan): void {
  const last = spans.at(-1);
  if (last?.kind === span.kind) spans[spans.length - 1] = { ...last, size: last.size + span.size };
  else spans.push(span);
}

/** Total size of the spans of one kind. */
export const bytesOf = (spans: readonly BarSpan[], kind: BarSpan['kind']): number =>
  spans.reduce((sum, span) => (span.kind === kind ? sum + span.size : sum), 0);

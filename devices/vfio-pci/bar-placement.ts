import type { AddressWindow, Bus } from '../contracts.js';

/** What a BAR's registers ask for. */
export interface BarRequest {
  /** `BAR2`, for messages. */
  readonly label: string;
  readonly kind: Bus['kind'];
  /** undefined while the BAR is not to be decoded. */
  readonly base: bigint | undefined;
  readonly bytes: bigint;
}

/** Where a BAR goes, or why it is not shown. */
export type BarPlacement = { readonly base: bigint } | { readonly refusal: string };

const isInside = (request: BarRequest, base: bigint, window: AddressWindow): boolean =>
  window.kind === request.kind && base >= window.base && base + request.bytes <= window.base + window.bytes;

/**
 * Places a device's BARs where their registers say, as far as that makes sense: inside one window, and not over a BAR
 * with a lower index. A function of the registers alone, so that no history of moves can leave anything behind.
 */
export function placeBars(
  requests: readonly BarRequest[],
  windows: readonly AddressWindow[],
): (BarPlacement | undefined)[] {
  const placements: (BarPlacement | undefined)[] = [];
  for (const request of requests) placements.push(place(request, requests, placements, windows));
  return placements;
}

function place(
  request: BarRequest,
  requests: readonly BarRequest[],
  before: readonly (BarPlacement | undefined)[],
  windows: readonly AddressWindow[],
): BarPlacement | undefined {
  const { base, bytes, kind } = request;
  if (base === undefined) return undefined;
  if (!windows.some((window) => isInside(request, base, window))) {
    return { refusal: 'outside of the windows for BARs' };
  }
  for (const [index, other] of before.entries()) {
    if (other === undefined || 'refusal' in other) continue;
    const { bytes: otherBytes, kind: otherKind, label } = requests[index] as BarRequest;
    if (kind === otherKind && base < other.base + otherBytes && other.base < base + bytes) {
      return { refusal: `overlaps ${label} of the same device` };
    }
  }
  return { base };
}

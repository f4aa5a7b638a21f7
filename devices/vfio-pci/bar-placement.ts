import type { AddressWindow, Bus } from '../contracts.js';

/** What a BAR's registers request. */
export interface BarRequest {
  /** `BAR2`, for messages. */
  readonly label: string;
  readonly kind: Bus['kind'];
  /** undefined while the BAR is not decoded. */
  readonly base: bigint | undefined;
  readonly bytes: bigint;
}

/** The address at which a BAR is decoded, or why it is not. */
export type BarPlacement = { readonly base: bigint } | { readonly refusal: string };

const isInside = (request: BarRequest, base: bigint, window: AddressWindow): boolean =>
  window.kind === request.kind && base >= window.base && base + request.bytes <= window.base + window.bytes;

/**
 * Places a device's BARs where their registers say, if that is inside one window and does not overlap a BAR with a
 * lower index. A pure function of the registers, so that earlier moves cannot affect the result.
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
    return { refusal: 'outside the BAR windows' };
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

import { InfoCapHeader } from './structs.js';

/** One capability of the chain that follows an info structure. */
export interface ChainedCapability {
  readonly id: number;
  readonly version: number;
  /** Offset of its header in the reply, which contains all of {@link InfoCapHeader}. */
  readonly at: number;
}

/** A reply that violates the uAPI. */
export class MalformedReply extends Error {
  override readonly name = 'MalformedReply';
}

/** The alignment of kernels before 6.6, whose headers have 32-bit members; newer ones align to 8. */
const ALIGNMENT = 4;

/**
 * Walks a capability chain. Offsets are relative to the reply's start; 0 ends the chain.
 * @param reply exactly the bytes that the kernel wrote
 * @param first offset of the first capability
 * @param fixed size of the structure before the chain, which no capability may overlap
 * @throws MalformedReply for an offset outside the reply, in its fixed part, or misaligned, and for a cycle
 */
export function walkCapabilityChain(reply: Uint8Array, first: number, fixed: number): ChainedCapability[] {
  const found: ChainedCapability[] = [];
  const seen = new Set<number>();
  for (let at = first; at !== 0; ) {
    const where = `capability at byte ${at} of ${reply.length}`;
    if (at < fixed) throw new MalformedReply(`${where} lies in the fixed part`);
    if (at + InfoCapHeader.size > reply.length) throw new MalformedReply(`${where} is outside the reply`);
    if (at % ALIGNMENT !== 0) throw new MalformedReply(`${where} is misaligned`);
    if (seen.has(at)) throw new MalformedReply(`${where} comes twice: the chain is a cycle`);
    seen.add(at);
    const { id, version, next } = InfoCapHeader.decode(reply, at);
    found.push({ id, version, at });
    at = next;
  }
  return found;
}

/**
 * Decodes the list of `count` structures that follows a capability's fixed part.
 * @throws MalformedReply if the reply is too short
 */
export function decodeList<T>(
  reply: Uint8Array,
  at: number,
  count: number,
  layout: { readonly cName: string; readonly size: number; decode(bytes: Uint8Array, at: number): T },
): T[] {
  if (count > Math.floor((reply.length - at) / layout.size)) {
    throw new MalformedReply(`${count} ${layout.cName} at byte ${at} of ${reply.length} do not fit`);
  }
  return Array.from({ length: count }, (_, i) => layout.decode(reply, at + i * layout.size));
}

/** Decodes a structure of the reply. @throws MalformedReply if the reply ends inside it */
export function decodeWithin<T>(
  reply: Uint8Array,
  at: number,
  layout: { readonly cName: string; readonly size: number; decode(bytes: Uint8Array, at: number): T },
): T {
  return decodeList(reply, at, 1, layout)[0] as T;
}

/** Converts a 64-bit number to an exact JavaScript number. @throws MalformedReply from 2^53 on */
export function exactNumber(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new MalformedReply(`${what} 0x${value.toString(16)}`);
  return Number(value);
}

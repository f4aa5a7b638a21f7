import { get16, get32, put16, put32 } from './bytes.js';
import { addBytes, checksum, fold, pseudoHeaderSum } from './checksum.js';
import { HOST_IP, type Verdict } from './host.js';
import { IPPROTO_TCP, IPV4_PAYLOAD, type Ipv4Packet, writeIpv4 } from './ipv4.js';

export const TCP_BYTES = 20;

// Control bits, RFC 9293 section 3.1.
export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const PSH = 0x08;
export const ACK = 0x10;

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_MSS = 2;
const OPTION_MSS_BYTES = 4;

/** A segment's header; one object per direction, reused. */
export class TcpSegment {
  sourcePort = 0;
  destinationPort = 0;
  seq = 0;
  ack = 0;
  flags = 0;
  window = 0;
  /** Value of the MSS option; 0 without one. */
  mss = 0;
  /** Offset of the data in the frame, and its length. */
  dataAt = 0;
  dataBytes = 0;

  has(flags: number): boolean {
    return (this.flags & flags) !== 0;
  }

  /** Length in sequence space: SYN and FIN count as one each. */
  get length(): number {
    return this.dataBytes + (this.has(SYN) ? 1 : 0) + (this.has(FIN) ? 1 : 0);
  }
}

/** How far `a` is ahead of `b` in sequence space; negative if behind. */
export function seqDiff(a: number, b: number): number {
  return (a - b) | 0;
}

/** The sequence number `bytes` after `seq`; `bytes` may be negative. */
export function seqAdd(seq: number, bytes: number): number {
  return (seq + bytes) >>> 0;
}

/** Parses the segment in `packet` into `segment`. @see RFC 9293 section 3.1 */
export function parseTcp(packet: Ipv4Packet, segment: TcpSegment): Verdict {
  const { frame, start, end } = packet;
  const bytes = end - start;
  if (bytes < TCP_BYTES) return 'malformed';
  const headerBytes = (frame[start + 12]! >>> 4) * 4;
  if (headerBytes < TCP_BYTES || headerBytes > bytes) return 'malformed';
  const sum = pseudoHeaderSum(packet.source, packet.destination, IPPROTO_TCP, bytes);
  if (fold(addBytes(sum, frame, start, end)) !== 0xffff) return 'malformed';
  segment.sourcePort = get16(frame, start);
  segment.destinationPort = get16(frame, start + 2);
  if (segment.sourcePort === 0 || segment.destinationPort === 0) return 'malformed';
  segment.seq = get32(frame, start + 4);
  segment.ack = get32(frame, start + 8);
  segment.flags = frame[start + 13]!;
  segment.window = get16(frame, start + 14);
  segment.dataAt = start + headerBytes;
  segment.dataBytes = bytes - headerBytes;
  segment.mss = segment.has(SYN) ? findMss(frame, start + TCP_BYTES, segment.dataAt) : 0;
  return 'taken';
}

function findMss(frame: Uint8Array, start: number, end: number): number {
  for (let at = start; at < end && frame[at] !== OPTION_END; ) {
    if (frame[at] === OPTION_NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? frame[at + 1]! : 0;
    if (length < 2 || at + length > end) return 0;
    if (frame[at] === OPTION_MSS && length === OPTION_MSS_BYTES) return get16(frame, at + 2);
    at += length;
  }
  return 0;
}

/** Offset of the data of a segment without options, in a frame that the host sends. */
export const TCP_DATA = IPV4_PAYLOAD + TCP_BYTES;

/**
 * Writes the IPv4 and TCP headers of `segment`, whose data is already at {@link TCP_DATA}. A segment with an MSS option
 * carries no data.
 * @returns the frame's length
 */
export function writeTcp(out: Uint8Array, destination: number, segment: TcpSegment): number {
  const headerBytes = segment.mss === 0 ? TCP_BYTES : TCP_BYTES + OPTION_MSS_BYTES;
  const bytes = headerBytes + segment.dataBytes;
  writeIpv4(out, IPPROTO_TCP, destination, bytes);
  put16(out, IPV4_PAYLOAD, segment.sourcePort);
  put16(out, IPV4_PAYLOAD + 2, segment.destinationPort);
  put32(out, IPV4_PAYLOAD + 4, segment.seq);
  put32(out, IPV4_PAYLOAD + 8, segment.ack);
  out[IPV4_PAYLOAD + 12] = (headerBytes / 4) << 4;
  out[IPV4_PAYLOAD + 13] = segment.flags;
  put16(out, IPV4_PAYLOAD + 14, segment.window);
  put32(out, IPV4_PAYLOAD + 16, 0);
  if (segment.mss !== 0) {
    put16(out, TCP_DATA, (OPTION_MSS << 8) | OPTION_MSS_BYTES);
    put16(out, TCP_DATA + 2, segment.mss);
  }
  const sum = pseudoHeaderSum(HOST_IP, destination, IPPROTO_TCP, bytes);
  put16(out, IPV4_PAYLOAD + 16, checksum(addBytes(sum, out, IPV4_PAYLOAD, IPV4_PAYLOAD + bytes)));
  return IPV4_PAYLOAD + bytes;
}

import { copyBytes, put16, put32 } from './bytes.js';
import { addBytes, adjustChecksum, checksum, fold } from './checksum.js';
import { ETH_HLEN, ETH_P_IP, SOURCE_MAC_AT, writeEthernet } from './ethernet.js';
import type { FrameQueue } from './frame-queue.js';
import type { Verdict } from './host.js';
import { IPPROTO_ICMP, IPV4_BYTES, IPV4_PAYLOAD, type Ipv4Packet, writeIpv4 } from './ipv4.js';

// linux/icmp.h
const ICMP_ECHOREPLY = 0;
const ICMP_DEST_UNREACH = 3;
const ICMP_ECHO = 8;
const ICMP_PORT_UNREACH = 3;

const ICMP_BYTES = 8;
/** Errors quote as much as fits in the size that every host accepts. @see RFC 1812, section 4.3.2.3 */
const ERROR_PACKET_BYTES = 576;

/** Numbers of the echo replies, counted from 1, to corrupt or drop, for testing the guest's own checks. 0 is none. */
export interface EchoFaults {
  /**
   * Flips one payload byte of this reply under a correct checksum. If it has no payload, the next one that has is
   * corrupted.
   */
  readonly corrupt: number;
  /** Drops this reply, which still counts in the numbering. */
  readonly drop: number;
}

/** The ICMP echo server. @see RFC 792, RFC 1122 section 3.2.2.6 */
export class IcmpEcho {
  readonly #queue: FrameQueue;
  readonly #dropAt: number;
  #corruptAt: number;
  readonly #counts: { swallowed: number; corrupted: number };
  #replies = 0;

  constructor(queue: FrameQueue, faults: EchoFaults, counts: { swallowed: number; corrupted: number }) {
    this.#queue = queue;
    this.#counts = counts;
    this.#dropAt = faults.drop;
    this.#corruptAt = faults.corrupt === 0 ? Number.POSITIVE_INFINITY : faults.corrupt;
  }

  answer(packet: Ipv4Packet): Verdict {
    const { frame, start, end } = packet;
    const bytes = end - start;
    if (bytes < ICMP_BYTES || fold(addBytes(0, frame, start, end)) !== 0xffff) return 'malformed';
    if (frame[start] !== ICMP_ECHO || frame[start + 1] !== 0) return 'unanswered';

    this.#replies++;
    if (this.#replies === this.#dropAt) {
      this.#counts.swallowed++;
      return 'taken';
    }
    const out = this.#queue.reserve();
    if (out === undefined) return 'taken';
    writeEthernet(out, frame, SOURCE_MAC_AT, ETH_P_IP);
    writeIpv4(out, IPPROTO_ICMP, packet.source, bytes);
    copyBytes(out, IPV4_PAYLOAD, frame, start, bytes);
    put16(out, IPV4_PAYLOAD, ICMP_ECHOREPLY << 8);
    // The checksum was correct and only the type changed: no second pass over the payload.
    put16(out, IPV4_PAYLOAD + 2, adjustChecksum(frame, start + 2, ICMP_ECHO << 8, ICMP_ECHOREPLY << 8));
    if (this.#replies >= this.#corruptAt && bytes > ICMP_BYTES) this.#corrupt(out, IPV4_PAYLOAD + bytes);
    this.#queue.commit(IPV4_PAYLOAD + bytes);
    return 'taken';
  }

  #corrupt(out: Uint8Array, end: number): void {
    this.#corruptAt = Number.POSITIVE_INFINITY;
    this.#counts.corrupted++;
    out[end - 1]! ^= 0xff;
    put16(out, IPV4_PAYLOAD + 2, 0);
    put16(out, IPV4_PAYLOAD + 2, checksum(addBytes(0, out, IPV4_PAYLOAD, end)));
  }
}

/**
 * Reports to the sender of `packet` that the port is unreachable. The caller has checked that an error is allowed: the
 * packet is not broadcast and its source can be answered.
 * @see RFC 1122, section 3.2.2
 */
export function sendPortUnreachable(packet: Ipv4Packet, queue: FrameQueue): void {
  const out = queue.reserve();
  if (out === undefined) return;
  const { frame } = packet;
  const quoted = Math.min(packet.end - ETH_HLEN, ERROR_PACKET_BYTES - IPV4_BYTES - ICMP_BYTES);
  const bytes = ICMP_BYTES + quoted;
  writeEthernet(out, frame, SOURCE_MAC_AT, ETH_P_IP);
  writeIpv4(out, IPPROTO_ICMP, packet.source, bytes);
  put32(out, IPV4_PAYLOAD, (ICMP_DEST_UNREACH << 24) | (ICMP_PORT_UNREACH << 16));
  put32(out, IPV4_PAYLOAD + 4, 0);
  copyBytes(out, IPV4_PAYLOAD + ICMP_BYTES, frame, ETH_HLEN, quoted);
  put16(out, IPV4_PAYLOAD + 2, checksum(addBytes(0, out, IPV4_PAYLOAD, IPV4_PAYLOAD + bytes)));
  queue.commit(IPV4_PAYLOAD + bytes);
}

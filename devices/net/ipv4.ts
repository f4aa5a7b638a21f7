import { get16, get32, put16, put32 } from './bytes.js';
import { addBytes, checksum, fold } from './checksum.js';
import { ETH_HLEN } from './ethernet.js';
import { HOST_IP, SUBNET_BROADCAST, type Verdict } from './host.js';

// linux/in.h
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const INADDR_BROADCAST = 0xffffffff;

/** Header length of sent packets. Options are accepted but never sent. */
export const IPV4_BYTES = 20;
/** Offset of the payload in a frame that the host sends. */
export const IPV4_PAYLOAD = ETH_HLEN + IPV4_BYTES;

const MORE_FRAGMENTS_OR_OFFSET = 0x3fff;
const DONT_FRAGMENT = 0x4000;
const TTL = 64;

/**
 * The packet being handled, filled by parseIpv4(): one object, reused for each frame. `start`..`end` is the payload in
 * `frame`, without padding after the packet.
 */
export class Ipv4Packet {
  /** A private copy of the frame, never guest memory. */
  readonly frame: Uint8Array;
  source = 0;
  destination = 0;
  protocol = 0;
  start = 0;
  end = 0;
  /**
   * Whether the frame was sent to all stations; errors and TCP must not answer it.
   * @see RFC 1122, sections 3.2.2 and 4.2.3.10
   */
  isLinkBroadcast = false;

  constructor(frame: Uint8Array) {
    this.frame = frame;
  }

  /** Whether the packet is addressed to this host alone. */
  get isForHost(): boolean {
    return this.destination === HOST_IP;
  }

  get isIpBroadcast(): boolean {
    return this.destination === INADDR_BROADCAST || this.destination === SUBNET_BROADCAST;
  }

  /**
   * Whether the source can be answered: not "this network", loopback, a group, reserved, broadcast, or the host itself.
   */
  get hasUsableSource(): boolean {
    const net = this.source >>> 24;
    return (
      net !== 0 && net !== 127 && net < 224 && this.source !== HOST_IP && this.source !== SUBNET_BROADCAST
    );
  }
}

/** Parses the header of a frame of `length` bytes into `packet`; skips options. @see RFC 791 */
export function parseIpv4(packet: Ipv4Packet, length: number): Verdict {
  const { frame } = packet;
  if (length < ETH_HLEN + IPV4_BYTES || frame[ETH_HLEN]! >>> 4 !== 4) return 'malformed';
  const headerBytes = (frame[ETH_HLEN]! & 15) * 4;
  const totalBytes = get16(frame, ETH_HLEN + 2);
  if (headerBytes < IPV4_BYTES || totalBytes < headerBytes || ETH_HLEN + totalBytes > length)
    return 'malformed';
  if (fold(addBytes(0, frame, ETH_HLEN, ETH_HLEN + headerBytes)) !== 0xffff) return 'malformed';
  packet.source = get32(frame, ETH_HLEN + 12);
  packet.destination = get32(frame, ETH_HLEN + 16);
  packet.protocol = frame[ETH_HLEN + 9]!;
  packet.start = ETH_HLEN + headerBytes;
  packet.end = ETH_HLEN + totalBytes;
  return (get16(frame, ETH_HLEN + 6) & MORE_FRAGMENTS_OR_OFFSET) === 0 ? 'taken' : 'fragmented';
}

/**
 * Writes the header of a packet from the host. Packets are never fragmented, so the identification may stay 0.
 * @see RFC 6864, section 4.1
 */
export function writeIpv4(
  out: Uint8Array,
  protocol: number,
  destination: number,
  payloadBytes: number,
): void {
  put16(out, ETH_HLEN, 0x4500);
  put16(out, ETH_HLEN + 2, IPV4_BYTES + payloadBytes);
  put16(out, ETH_HLEN + 4, 0);
  put16(out, ETH_HLEN + 6, DONT_FRAGMENT);
  out[ETH_HLEN + 8] = TTL;
  out[ETH_HLEN + 9] = protocol;
  put16(out, ETH_HLEN + 10, 0);
  put32(out, ETH_HLEN + 12, HOST_IP);
  put32(out, ETH_HLEN + 16, destination);
  put16(out, ETH_HLEN + 10, checksum(addBytes(0, out, ETH_HLEN, ETH_HLEN + IPV4_BYTES)));
}

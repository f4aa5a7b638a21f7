import { copyBytes, get16, put16 } from './bytes.js';
import { addBytes, checksum, fold, pseudoHeaderSum } from './checksum.js';
import { ETH_P_IP, SOURCE_MAC_AT, writeEthernet } from './ethernet.js';
import type { FrameQueue } from './frame-queue.js';
import { ECHO_PORT, HOST_IP, type Verdict } from './host.js';
import { IPPROTO_UDP, IPV4_PAYLOAD, type Ipv4Packet, writeIpv4 } from './ipv4.js';

export const UDP_BYTES = 8;

/** Offset of a datagram's data in a frame that the host sends. */
export const UDP_DATA = IPV4_PAYLOAD + UDP_BYTES;

/** Checks the datagram's length and checksum, and trims `packet` to the datagram. @see RFC 768 */
export function parseUdp(packet: Ipv4Packet): Verdict {
  const { frame, start } = packet;
  if (packet.end - start < UDP_BYTES) return 'malformed';
  const bytes = get16(frame, start + 4);
  if (bytes < UDP_BYTES || start + bytes > packet.end) return 'malformed';
  packet.end = start + bytes;
  if (get16(frame, start + 6) !== 0) {
    const sum = pseudoHeaderSum(packet.source, packet.destination, IPPROTO_UDP, bytes);
    if (fold(addBytes(sum, frame, start, packet.end)) !== 0xffff) return 'malformed';
  }
  return 'taken';
}

/** Writes the IPv4 and UDP headers of a datagram whose data is already at {@link UDP_DATA}. */
export function writeUdp(
  out: Uint8Array,
  sourcePort: number,
  destination: number,
  destinationPort: number,
  dataBytes: number,
): void {
  const bytes = UDP_BYTES + dataBytes;
  writeIpv4(out, IPPROTO_UDP, destination, bytes);
  put16(out, IPV4_PAYLOAD, sourcePort);
  put16(out, IPV4_PAYLOAD + 2, destinationPort);
  put16(out, IPV4_PAYLOAD + 4, bytes);
  put16(out, IPV4_PAYLOAD + 6, 0);
  const sum = pseudoHeaderSum(HOST_IP, destination, IPPROTO_UDP, bytes);
  // A checksum of 0 would mean "none".
  put16(out, IPV4_PAYLOAD + 6, checksum(addBytes(sum, out, IPV4_PAYLOAD, IPV4_PAYLOAD + bytes)) || 0xffff);
}

/**
 * Returns a datagram to its sender. Ignores port 0, which cannot be answered, and other echo services, which never
 * stop.
 */
export function echoUdp(packet: Ipv4Packet, queue: FrameQueue): Verdict {
  const { frame, start } = packet;
  const peerPort = get16(frame, start);
  if (peerPort === 0 || peerPort === ECHO_PORT) return 'unanswered';
  const out = queue.reserve();
  if (out === undefined) return 'taken';
  const dataBytes = packet.end - start - UDP_BYTES;
  writeEthernet(out, frame, SOURCE_MAC_AT, ETH_P_IP);
  copyBytes(out, UDP_DATA, frame, start + UDP_BYTES, dataBytes);
  writeUdp(out, ECHO_PORT, packet.source, peerPort, dataBytes);
  queue.commit(UDP_DATA + dataBytes);
  return 'taken';
}

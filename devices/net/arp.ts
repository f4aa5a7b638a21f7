import { copyBytes, get16, get32, put16, put32 } from './bytes.js';
import { ETH_ALEN, ETH_HLEN, ETH_P_ARP, ETH_P_IP, isGroupMac, writeEthernet } from './ethernet.js';
import type { FrameQueue } from './frame-queue.js';
import { HOST_IP, HOST_MAC, type Verdict } from './host.js';

// linux/if_arp.h
const ARPHRD_ETHER = 1;
const ARPOP_REQUEST = 1;
const ARPOP_REPLY = 2;

const ARP_BYTES = 28;
const SENDER_MAC = ETH_HLEN + 8;
const SENDER_IP = ETH_HLEN + 14;
const TARGET_IP = ETH_HLEN + 24;

/** Answers ARP requests for the host's address, including probes (RFC 5227, sender 0.0.0.0). @see RFC 826 */
export function answerArp(frame: Uint8Array, length: number, queue: FrameQueue): Verdict {
  if (length < ETH_HLEN + ARP_BYTES) return 'malformed';
  const isIpv4OverEthernet =
    get16(frame, ETH_HLEN) === ARPHRD_ETHER &&
    get16(frame, ETH_HLEN + 2) === ETH_P_IP &&
    frame[ETH_HLEN + 4] === ETH_ALEN &&
    frame[ETH_HLEN + 5] === 4;
  if (!isIpv4OverEthernet || isGroupMac(frame, SENDER_MAC)) return 'malformed';
  if (get16(frame, ETH_HLEN + 6) !== ARPOP_REQUEST || get32(frame, TARGET_IP) !== HOST_IP)
    return 'unanswered';

  const out = queue.reserve();
  if (out === undefined) return 'taken';
  writeEthernet(out, frame, SENDER_MAC, ETH_P_ARP);
  copyBytes(out, ETH_HLEN, frame, ETH_HLEN, 6);
  put16(out, ETH_HLEN + 6, ARPOP_REPLY);
  copyBytes(out, SENDER_MAC, HOST_MAC, 0, ETH_ALEN);
  put32(out, SENDER_IP, HOST_IP);
  copyBytes(out, ETH_HLEN + 18, frame, SENDER_MAC, ETH_ALEN + 4);
  queue.commit(ETH_HLEN + ARP_BYTES);
  return 'taken';
}

import { copyBytes, get16, get32, put16, put32 } from './bytes.js';
import { ETH_ALEN, ETH_P_IP, isGroupMac, writeEthernet, writeEthernetBroadcast } from './ethernet.js';
import type { FrameQueue } from './frame-queue.js';
import { GUEST_IP, HOST_IP, NETMASK, SUBNET_BROADCAST, type Verdict } from './host.js';
import { INADDR_BROADCAST, type Ipv4Packet } from './ipv4.js';
import { UDP_BYTES, UDP_DATA, writeUdp } from './udp.js';

export const DHCP_SERVER_PORT = 67;
const DHCP_CLIENT_PORT = 68;

const BOOTREQUEST = 1;
const BOOTREPLY = 2;
const HTYPE_ETHERNET = 1;
const BROADCAST_FLAG = 0x8000;
const MAGIC_COOKIE = 0x63825363;

// Offsets in a message. RFC 2131, section 2.
const XID = 4;
const FLAGS = 10;
const CIADDR = 12;
const YIADDR = 16;
const GIADDR = 24;
const CHADDR = 28;
const COOKIE = 236;
const OPTIONS = 240;
/** BOOTP's fixed size; some clients reject shorter messages. @see RFC 1542, section 2.1 */
const LEAST_BYTES = 300;

// Option codes, RFC 2132.
const PAD = 0;
const SUBNET_MASK = 1;
const ROUTER = 3;
const DOMAIN_NAME_SERVER = 6;
const INTERFACE_MTU = 26;
const BROADCAST_ADDRESS = 28;
const REQUESTED_IP_ADDRESS = 50;
const IP_ADDRESS_LEASE_TIME = 51;
const DHCP_MESSAGE_TYPE = 53;
const SERVER_IDENTIFIER = 54;
const CLIENT_IDENTIFIER = 61;
const END = 255;

const DHCPDISCOVER = 1;
const DHCPOFFER = 2;
const DHCPREQUEST = 3;
const DHCPACK = 5;
const DHCPNAK = 6;
const DHCPINFORM = 8;

/** One day. The server keeps no lease state, so this only sets how often the guest renews. */
const LEASE_SECONDS = 86_400;

interface Request {
  readonly type: number;
  readonly requestedIp: number | undefined;
  readonly serverId: number | undefined;
  /** Offset of the client identifier's length byte in the frame, or -1. */
  readonly clientIdAt: number;
}

/**
 * Answers a DHCP message with the one lease there is. The wire has a single station, so the server keeps no table:
 * every client gets the guest's address, whatever its MAC, and RELEASE and DECLINE need no action. Options overloaded
 * into `sname` and `file` are not read, and relayed messages (giaddr set) are not answered.
 * @see RFC 2131 section 4.3, RFC 6842 (client identifier in replies)
 */
export function answerDhcp(packet: Ipv4Packet, queue: FrameQueue, mtu: number): Verdict {
  const { frame } = packet;
  const at = packet.start + UDP_BYTES;
  if (packet.end - at < OPTIONS || get32(frame, at + COOKIE) !== MAGIC_COOKIE) return 'malformed';
  if (frame[at + 1] !== HTYPE_ETHERNET || frame[at + 2] !== ETH_ALEN || isGroupMac(frame, at + CHADDR)) {
    return 'malformed';
  }
  if (frame[at] !== BOOTREQUEST || get32(frame, at + GIADDR) !== 0) return 'unanswered';
  const request = parseOptions(frame, at + OPTIONS, packet.end);
  if (request === undefined) return 'malformed';
  const type = replyTo(request, get32(frame, at + CIADDR));
  if (type === undefined) return 'unanswered';
  const out = queue.reserve();
  if (out !== undefined) queue.commit(writeReply(out, frame, at, request, type, mtu));
  return 'taken';
}

/** Undefined if an option runs past the end or has a wrong length, or the message type is missing. */
function parseOptions(frame: Uint8Array, start: number, end: number): Request | undefined {
  let type = 0;
  let requestedIp: number | undefined;
  let serverId: number | undefined;
  let clientIdAt = -1;
  for (let at = start; at < end && frame[at] !== END; ) {
    if (frame[at] === PAD) {
      at++;
      continue;
    }
    const value = at + 2;
    const length = frame[at + 1]!;
    if (value > end || value + length > end) return undefined;
    switch (frame[at]) {
      case DHCP_MESSAGE_TYPE:
        if (length !== 1) return undefined;
        type = frame[value]!;
        break;
      case REQUESTED_IP_ADDRESS:
        if (length !== 4) return undefined;
        requestedIp = get32(frame, value);
        break;
      case SERVER_IDENTIFIER:
        if (length !== 4) return undefined;
        serverId = get32(frame, value);
        break;
      case CLIENT_IDENTIFIER:
        clientIdAt = at + 1;
        break;
    }
    at = value + length;
  }
  return type === 0 ? undefined : { type, requestedIp, serverId, clientIdAt };
}

/** The reply's message type; undefined to send none. @see RFC 2131, table 4 and section 4.3.2 */
function replyTo(request: Request, ciaddr: number): number | undefined {
  switch (request.type) {
    case DHCPDISCOVER:
      return DHCPOFFER;
    case DHCPINFORM:
      return ciaddr === 0 ? undefined : DHCPACK;
    case DHCPREQUEST: {
      if (request.serverId !== undefined && request.serverId !== HOST_IP) return undefined;
      const wanted = request.requestedIp ?? ciaddr;
      if (wanted === 0) return undefined;
      return wanted === GUEST_IP ? DHCPACK : DHCPNAK;
    }
    default:
      return undefined;
  }
}

function writeReply(
  out: Uint8Array,
  frame: Uint8Array,
  at: number,
  request: Request,
  type: number,
  mtu: number,
): number {
  const ciaddr = get32(frame, at + CIADDR);
  const isLease = type !== DHCPNAK && request.type !== DHCPINFORM;
  out.fill(0, UDP_DATA, UDP_DATA + LEAST_BYTES);
  out[UDP_DATA] = BOOTREPLY;
  out[UDP_DATA + 1] = HTYPE_ETHERNET;
  out[UDP_DATA + 2] = ETH_ALEN;
  put32(out, UDP_DATA + XID, get32(frame, at + XID));
  put16(out, UDP_DATA + FLAGS, get16(frame, at + FLAGS));
  if (type === DHCPACK) put32(out, UDP_DATA + CIADDR, ciaddr);
  if (isLease) put32(out, UDP_DATA + YIADDR, GUEST_IP);
  copyBytes(out, UDP_DATA + CHADDR, frame, at + CHADDR, 16);
  put32(out, UDP_DATA + COOKIE, MAGIC_COOKIE);

  let end = UDP_DATA + OPTIONS;
  out[end++] = DHCP_MESSAGE_TYPE;
  out[end++] = 1;
  out[end++] = type;
  end = putOption32(out, end, SERVER_IDENTIFIER, HOST_IP);
  if (isLease) end = putOption32(out, end, IP_ADDRESS_LEASE_TIME, LEASE_SECONDS);
  if (type !== DHCPNAK) {
    end = putOption32(out, end, SUBNET_MASK, NETMASK);
    end = putOption32(out, end, ROUTER, HOST_IP);
    end = putOption32(out, end, DOMAIN_NAME_SERVER, HOST_IP);
    end = putOption32(out, end, BROADCAST_ADDRESS, SUBNET_BROADCAST);
    out[end++] = INTERFACE_MTU;
    out[end++] = 2;
    put16(out, end, mtu);
    end += 2;
  }
  if (request.clientIdAt >= 0) {
    const bytes = frame[request.clientIdAt]!;
    out[end++] = CLIENT_IDENTIFIER;
    copyBytes(out, end, frame, request.clientIdAt, 1 + bytes);
    end += 1 + bytes;
  }
  out[end++] = END;

  const dataBytes = Math.max(LEAST_BYTES, end - UDP_DATA);
  const isBroadcast = type === DHCPNAK || (ciaddr === 0 && (get16(frame, at + FLAGS) & BROADCAST_FLAG) !== 0);
  if (isBroadcast) writeEthernetBroadcast(out, ETH_P_IP);
  else writeEthernet(out, frame, at + CHADDR, ETH_P_IP);
  const to = isBroadcast ? INADDR_BROADCAST : ciaddr === 0 ? GUEST_IP : ciaddr;
  writeUdp(out, DHCP_SERVER_PORT, to, DHCP_CLIENT_PORT, dataBytes);
  return UDP_DATA + dataBytes;
}

function putOption32(out: Uint8Array, at: number, code: number, value: number): number {
  out[at] = code;
  out[at + 1] = 4;
  put32(out, at + 2, value);
  return at + 6;
}

import { answerArp } from './arp.js';
import { get16 } from './bytes.js';
import { answerDhcp, DHCP_SERVER_PORT } from './dhcp.js';
import {
  ETH_ALEN,
  ETH_HLEN,
  ETH_P_ARP,
  ETH_P_IP,
  isBroadcastMac,
  isGroupMac,
  isHostMac,
  SOURCE_MAC_AT,
} from './ethernet.js';
import { FrameQueue } from './frame-queue.js';
import { ECHO_PORT, type Verdict } from './host.js';
import { IcmpEcho, sendPortUnreachable } from './icmp.js';
import { IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, Ipv4Packet, parseIpv4 } from './ipv4.js';
import type { NetBackend, NetCounters, NetPort } from './port.js';
import { parseResponderOptions, type ResponderOptions } from './responder-options.js';
import { TcpEcho } from './tcp-echo.js';
import { echoUdp, parseUdp } from './udp.js';

/** Frames that may be queued for the guest; with the MTU this bounds their bytes: 380 KiB at 1500. */
export const RESPONDER_QUEUE_FRAMES = 256;

/** Slots that TCP leaves to other protocols: a bulk transfer must not cost a ping its reply. */
const RESERVED_SLOTS = RESPONDER_QUEUE_FRAMES / 4;

/**
 * Counters of the responder, beyond those of every port. Each frame it takes counts in exactly one of the first five.
 */
export interface ResponderCounters extends NetCounters {
  /** Handled by one of the host's protocols. */
  readonly taken: number;
  /** Addressed to another station. */
  readonly notForHost: number;
  /** A wrong length, checksum or address. */
  readonly malformed: number;
  /** IPv4 fragments, which the host does not reassemble. */
  readonly fragmented: number;
  /** Valid, but for a protocol, port or address that is not served. */
  readonly unanswered: number;
  /** Echo replies dropped by `drop=`. */
  readonly swallowed: number;
  /** Echo replies corrupted by `corrupt=`. */
  readonly corrupted: number;
  /** TCP connections reset to make room for another. */
  readonly evicted: number;
}

type Counts = { -readonly [Name in keyof ResponderCounters]: number };

const zeroCounts = (): Counts => ({
  txFrames: 0,
  txBytes: 0,
  txDropped: 0,
  rxFrames: 0,
  rxBytes: 0,
  rxDropped: 0,
  taken: 0,
  notForHost: 0,
  malformed: 0,
  fragmented: 0,
  unanswered: 0,
  swallowed: 0,
  corrupted: 0,
  evicted: 0,
});

/** Clock and randomness, which tests may replace. */
export interface ResponderSources {
  /** Milliseconds on a monotonic clock. */
  readonly now: () => number;
  /** Initial sequence number of the next TCP connection. */
  readonly initialSequence: () => number;
}

const MACHINE_SOURCES: ResponderSources = {
  now: () => performance.now(),
  // Need not be secret: only the guest is on the wire.
  initialSequence: () => Math.floor(Math.random() * 0x1_0000_0000),
};

/**
 * The virtual host 10.0.2.2/24 at the other end of the wire: ARP, ICMP echo, DHCP, UDP and TCP echo. It receives frames
 * to its own MAC and broadcast, and replies synchronously: receive() has the reply when transmit() returns. Every frame
 * from the guest is copied once before it is parsed, and none of it is trusted.
 */
export class Responder implements NetPort {
  readonly fd = -1;
  readonly #counts = zeroCounts();
  readonly counters: ResponderCounters = this.#counts;
  readonly #frame: Uint8Array;
  readonly #packet: Ipv4Packet;
  readonly #queue: FrameQueue;
  readonly #icmp: IcmpEcho;
  readonly #tcp: TcpEcho;
  readonly #mtu: number;
  #isDisposed = false;

  constructor(options: ResponderOptions, sources: ResponderSources = MACHINE_SOURCES) {
    const { mtu } = options;
    this.#mtu = mtu;
    this.#frame = new Uint8Array(ETH_HLEN + mtu);
    this.#packet = new Ipv4Packet(this.#frame);
    const queue = new FrameQueue(RESPONDER_QUEUE_FRAMES, ETH_HLEN + mtu, this.#counts);
    this.#queue = queue;
    this.#icmp = new IcmpEcho(queue, options.faults, this.#counts);
    const { now, initialSequence } = sources;
    const wire = { queue, mtu, reservedSlots: RESERVED_SLOTS, now, initialSequence };
    this.#tcp = new TcpEcho(wire, this.#counts);
  }

  transmit(parts: readonly Uint8Array[]): boolean {
    const length = this.#isDisposed ? 0 : this.#gather(parts);
    if (length < ETH_HLEN) {
      this.#counts.txDropped++;
      return false;
    }
    this.#counts.txFrames++;
    this.#counts.txBytes += length;
    this.#counts[this.#answer(length)]++;
    this.#tcp.tick();
    return true;
  }

  pending(): number {
    return this.#queue.pending();
  }

  receive(parts: readonly Uint8Array[]): number {
    const length = this.#queue.shiftInto(parts);
    if (length === 0) return 0;
    if (length > 0) {
      this.#counts.rxFrames++;
      this.#counts.rxBytes += length;
    }
    this.#tcp.resume();
    return length;
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#queue.clear();
  }

  /** Copies the frame out of guest memory. Returns its length, or 0 if it is longer than the MTU allows. */
  #gather(parts: readonly Uint8Array[]): number {
    const frame = this.#frame;
    let length = 0;
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i]!;
      if (part.length > frame.length - length) return 0;
      frame.set(part, length);
      length += part.length;
    }
    return length;
  }

  #answer(length: number): Verdict | 'notForHost' {
    const frame = this.#frame;
    const isBroadcast = isBroadcastMac(frame, 0);
    if (!isBroadcast && !isHostMac(frame, 0)) return 'notForHost';
    if (isGroupMac(frame, SOURCE_MAC_AT)) return 'malformed';
    switch (get16(frame, 2 * ETH_ALEN)) {
      case ETH_P_ARP:
        return answerArp(frame, length, this.#queue);
      case ETH_P_IP: {
        const packet = this.#packet;
        packet.isLinkBroadcast = isBroadcast;
        const verdict = parseIpv4(packet, length);
        return verdict === 'taken' ? this.#answerIpv4(packet) : verdict;
      }
      default:
        return 'unanswered';
    }
  }

  #answerIpv4(packet: Ipv4Packet): Verdict {
    if (!packet.isForHost && !packet.isIpBroadcast) return 'unanswered';
    if (packet.protocol === IPPROTO_UDP) return this.#answerUdp(packet);
    if (!packet.isForHost) return 'unanswered';
    if (!packet.hasUsableSource) return 'malformed';
    switch (packet.protocol) {
      case IPPROTO_ICMP:
        return this.#icmp.answer(packet);
      case IPPROTO_TCP:
        return packet.isLinkBroadcast ? 'unanswered' : this.#tcp.answer(packet);
      default:
        return 'unanswered';
    }
  }

  #answerUdp(packet: Ipv4Packet): Verdict {
    if (parseUdp(packet) === 'malformed') return 'malformed';
    const port = get16(packet.frame, packet.start + 2);
    // Before checking the source: a client without an address has none.
    if (port === DHCP_SERVER_PORT) return answerDhcp(packet, this.#queue, this.#mtu);
    if (!packet.isForHost) return 'unanswered';
    if (!packet.hasUsableSource) return 'malformed';
    if (port === ECHO_PORT) return echoUdp(packet, this.#queue);
    if (!packet.isLinkBroadcast) sendPortUnreachable(packet, this.#queue);
    return 'unanswered';
  }
}

/**
 * Back-end `responder[:options]`: a peer inside the process, which needs no privileges and opens nothing. Options are
 * `corrupt=N`, `drop=N` and `mtu=BYTES`, separated by commas. Each queue pair has a peer of its own, which replies on that pair.
 */
export const responder: NetBackend = {
  name: 'responder',

  validate(address) {
    const options = parseResponderOptions(address);
    return typeof options === 'string' ? options : undefined;
  },

  open(address) {
    const options = parseResponderOptions(address);
    if (typeof options === 'string') throw new TypeError(`responder: ${options}`);
    return new Responder(options);
  },

  openPair(address) {
    return this.open(address);
  },
};

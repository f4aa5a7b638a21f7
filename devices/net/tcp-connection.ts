import { copyBytes } from './bytes.js';
import { ETH_ALEN, ETH_P_IP, SOURCE_MAC_AT, writeEthernet } from './ethernet.js';
import type { FrameQueue } from './frame-queue.js';
import { ECHO_PORT } from './host.js';
import { IPV4_BYTES, type Ipv4Packet } from './ipv4.js';
import {
  ACK,
  FIN,
  PSH,
  RST,
  SYN,
  seqAdd,
  seqDiff,
  TCP_BYTES,
  TCP_DATA,
  TcpSegment,
  writeTcp,
} from './tcp.js';

/** The states of a passive opener that never closes first; in particular, it has no TIME-WAIT. */
export type TcpState = 'closed' | 'syn-received' | 'established' | 'close-wait' | 'last-ack';

/**
 * Bytes that a connection buffers from their arrival until the guest acknowledges their echo. A power of two below 64
 * KiB.
 */
export const ECHO_BYTES = 32_768;

/** The MSS of a peer that announces none. @see RFC 9293, section 3.7.1 */
const DEFAULT_MSS = 536;
/** A lower announced MSS is ignored: it would turn each byte into a frame. */
const LEAST_MSS = 48;

// RFC 6298: the initial timeout, and the limit of its backoff.
const RTO_MS = 1_000;
const RTO_MAX_MS = 60_000;
const FAST_RETRANSMIT_ACKS = 3;

/** Shared by the connections of one host. */
export interface TcpWire {
  readonly queue: FrameQueue;
  readonly mtu: number;
  /** Queue slots that TCP leaves to the other protocols. */
  readonly reservedSlots: number;
  /** Milliseconds on a monotonic clock. */
  readonly now: () => number;
  /** Returns the initial sequence number of the next connection. */
  readonly initialSequence: () => number;
}

/**
 * One connection of the echo server. Data that arrives in order goes straight into the send ring, so the receive window
 * is the ring's free space and there is no other buffer. Data that arrives out of order is dropped and answered with a
 * duplicate ACK. Field names are those of RFC 9293, section 3.3.1. There is no congestion window: the wire is not
 * shared.
 */
export class TcpConnection {
  readonly #wire: TcpWire;
  readonly #reply = new TcpSegment();
  readonly #peerMac = new Uint8Array(ETH_ALEN);
  /**
   * The byte with sequence number s is at s % ECHO_BYTES. Allocated on first use, then kept for the slot's next
   * connection.
   */
  #ring: Uint8Array | undefined;
  #peerIp = 0;
  #peerPort = 0;
  #state: TcpState = 'closed';
  #mss = DEFAULT_MSS;

  #iss = 0;
  #sndUna = 0;
  #sndNxt = 0;
  /** The highest SND.NXT so far; a retransmission moves SND.NXT back to SND.UNA. */
  #sndMax = 0;
  /** One past the last byte in the ring; the FIN's sequence number once the peer has closed. */
  #sndEnd = 0;
  #sndWnd = 0;
  #sndWl1 = 0;
  #sndWl2 = 0;
  #irs = 0;
  #rcvNxt = 0;
  /** Right edge of the last window announced. Never decreases. */
  #rcvEdge = 0;

  #duplicateAcks = 0;
  #rto = RTO_MS;
  #deadline = Number.POSITIVE_INFINITY;
  #owesAck = false;
  #owesOutput = false;

  /** When the connection was last used, as a count kept by the table. */
  lastUsed = 0;

  constructor(wire: TcpWire) {
    this.#wire = wire;
  }

  get state(): TcpState {
    return this.#state;
  }

  /** When {@link timeout} is due on the wire's clock; infinite if nothing is outstanding. */
  get deadline(): number {
    return this.#deadline;
  }

  /** Whether the queue was full when the connection had output; {@link resume} sends it. */
  get owesOutput(): boolean {
    return this.#owesOutput;
  }

  isWith(peerIp: number, peerPort: number): boolean {
    return this.#state !== 'closed' && this.#peerIp === peerIp && this.#peerPort === peerPort;
  }

  /** Answers a SYN. Data in it is ignored, and will be retransmitted. */
  open(packet: Ipv4Packet, syn: TcpSegment): void {
    copyBytes(this.#peerMac, 0, packet.frame, SOURCE_MAC_AT, ETH_ALEN);
    this.#peerIp = packet.source;
    this.#peerPort = syn.sourcePort;
    this.#state = 'syn-received';
    const ours = this.#wire.mtu - IPV4_BYTES - TCP_BYTES;
    this.#mss = Math.min(ours, syn.mss === 0 ? DEFAULT_MSS : Math.max(syn.mss, LEAST_MSS));
    this.#iss = this.#wire.initialSequence() >>> 0;
    this.#sndUna = this.#sndNxt = this.#sndMax = this.#iss;
    this.#sndEnd = seqAdd(this.#iss, 1);
    this.#sndWnd = syn.window;
    this.#sndWl1 = syn.seq;
    this.#sndWl2 = this.#iss;
    this.#irs = syn.seq;
    this.#rcvNxt = seqAdd(syn.seq, 1);
    this.#rcvEdge = seqAdd(this.#rcvNxt, ECHO_BYTES);
    this.#duplicateAcks = 0;
    this.#rto = RTO_MS;
    this.#deadline = Number.POSITIVE_INFINITY;
    this.#owesAck = false;
    this.#output();
  }

  /** Handles a segment from the peer. @see RFC 9293 section 3.10.7.4, RFC 5961 (challenge ACKs) */
  take(packet: Ipv4Packet, segment: TcpSegment): void {
    if (segment.has(RST)) {
      if (segment.seq === this.#rcvNxt) this.#close();
      else if (this.#isInWindow(segment.seq)) this.#acknowledge();
      return;
    }
    if (segment.has(SYN)) {
      const isRepeated = this.#state === 'syn-received' && segment.seq === this.#irs && !segment.has(ACK);
      if (isRepeated) this.#sndNxt = this.#iss;
      this.#acknowledge();
      return;
    }
    if (!this.#isAcceptable(segment)) {
      this.#acknowledge();
      return;
    }
    if (!segment.has(ACK) || !this.#takeAck(segment)) return;
    this.#takeData(packet, segment);
    this.#output();
  }

  /** Sends the output that did not fit in the queue. */
  resume(): void {
    this.#owesOutput = false;
    if (this.#state !== 'closed') this.#output();
  }

  /** Retransmits from SND.UNA, or probes a zero window. */
  timeout(): void {
    this.#rto = Math.min(this.#rto * 2, RTO_MAX_MS);
    this.#deadline = Number.POSITIVE_INFINITY;
    this.#sndNxt = this.#sndUna;
    this.#duplicateAcks = 0;
    this.#output(1);
  }

  /** Resets the connection, to make room for another. */
  abort(): void {
    if (this.#state === 'closed') return;
    this.#emit(this.#sndNxt, RST | ACK, 0);
    this.#close();
  }

  #close(): void {
    this.#state = 'closed';
    this.#deadline = Number.POSITIVE_INFINITY;
    this.#owesAck = false;
    this.#owesOutput = false;
  }

  #isInWindow(seq: number): boolean {
    const ahead = seqDiff(seq, this.#rcvNxt);
    return ahead >= 0 && ahead < seqDiff(this.#rcvEdge, this.#rcvNxt);
  }

  /** RFC 9293's four cases, and its exception for a zero window: at RCV.NXT, the ACK is always processed. */
  #isAcceptable(segment: TcpSegment): boolean {
    if (segment.seq === this.#rcvNxt || this.#isInWindow(segment.seq)) return true;
    return segment.length > 0 && this.#isInWindow(seqAdd(segment.seq, segment.length - 1));
  }

  /** Processes the ACK. Returns false if the rest of the segment must be ignored. */
  #takeAck(segment: TcpSegment): boolean {
    if (this.#state === 'syn-received') {
      if (segment.ack !== seqAdd(this.#iss, 1)) {
        this.#emit(segment.ack, RST, 0);
        return false;
      }
      this.#state = 'established';
      this.#ring ??= new Uint8Array(ECHO_BYTES);
    }
    if (seqDiff(segment.ack, this.#sndMax) > 0) {
      this.#acknowledge();
      return false;
    }
    const acked = seqDiff(segment.ack, this.#sndUna);
    if (acked > 0) this.#advance(segment.ack);
    else if (acked === 0) this.#countDuplicate(segment);
    this.#updateWindow(segment, acked);
    if (this.#state === 'last-ack' && seqDiff(this.#sndUna, this.#sndEnd) > 0) {
      this.#close();
      return false;
    }
    return true;
  }

  #advance(ack: number): void {
    this.#sndUna = ack;
    if (seqDiff(ack, this.#sndNxt) > 0) this.#sndNxt = ack;
    this.#duplicateAcks = 0;
    this.#rto = RTO_MS;
    this.#deadline = Number.POSITIVE_INFINITY;
  }

  /** On the third duplicate, retransmits the first missing segment only. @see RFC 5681, sections 2 and 3.2 */
  #countDuplicate(segment: TcpSegment): void {
    const isDuplicate =
      segment.length === 0 &&
      this.#sndMax !== this.#sndUna &&
      segment.window === this.#sndWnd &&
      this.#sndWnd > 0;
    if (!isDuplicate || ++this.#duplicateAcks !== FAST_RETRANSMIT_ACKS) return;
    const next = this.#sndNxt;
    this.#sndNxt = this.#sndUna;
    this.#sendOne(0);
    if (seqDiff(next, this.#sndNxt) > 0) this.#sndNxt = next;
  }

  #updateWindow(segment: TcpSegment, acked: number): void {
    const newer = seqDiff(segment.seq, this.#sndWl1);
    if (acked < 0 || newer < 0 || (newer === 0 && seqDiff(segment.ack, this.#sndWl2) < 0)) return;
    this.#sndWnd = segment.window;
    this.#sndWl1 = segment.seq;
    this.#sndWl2 = segment.ack;
  }

  #takeData(packet: Ipv4Packet, segment: TcpSegment): void {
    if (segment.length === 0) return;
    this.#owesAck = true;
    const known = seqDiff(this.#rcvNxt, segment.seq);
    if (known < 0 || this.#state !== 'established') return;
    const fresh = segment.dataBytes - known;
    const bytes = Math.min(fresh, seqDiff(this.#rcvEdge, this.#rcvNxt));
    if (bytes > 0) this.#store(packet.frame, segment.dataAt + known, bytes);
    // A FIN needs no buffer, so it is accepted at the window's edge.
    if (segment.has(FIN) && fresh === bytes) {
      this.#rcvNxt = seqAdd(this.#rcvNxt, 1);
      this.#state = 'close-wait';
    }
  }

  #store(frame: Uint8Array, from: number, bytes: number): void {
    const at = this.#sndEnd & (ECHO_BYTES - 1);
    const first = Math.min(bytes, ECHO_BYTES - at);
    copyBytes(this.#ring!, at, frame, from, first);
    copyBytes(this.#ring!, 0, frame, from + first, bytes - first);
    this.#sndEnd = seqAdd(this.#sndEnd, bytes);
    this.#rcvNxt = seqAdd(this.#rcvNxt, bytes);
  }

  #acknowledge(): void {
    this.#owesAck = true;
    this.#output();
  }

  /**
   * Sends everything that the peer's window and the queue allow, then a bare ACK if one is due and no segment carried
   * it.
   */
  #output(leastWindow = 0): void {
    let least = leastWindow;
    while (this.#sendOne(least)) least = 0;
    if (this.#owesAck || this.#opensWindow()) this.#emit(this.#sndNxt, ACK, 0);
    const isUnsent = seqDiff(this.#sndEnd, this.#sndNxt) > 0 || this.#state === 'close-wait';
    const isWaiting = this.#sndUna !== this.#sndMax || isUnsent;
    if (isWaiting && this.#deadline === Number.POSITIVE_INFINITY)
      this.#deadline = this.#wire.now() + this.#rto;
  }

  /**
   * Sends the segment at SND.NXT, with a window of at least `least`. Returns false if there was none, or the queue is
   * full.
   */
  #sendOne(least: number): boolean {
    if (this.#sndNxt === this.#iss && this.#state === 'syn-received') {
      if (!this.#emit(this.#iss, SYN | ACK, 0)) return false;
      this.#sent(1);
      return true;
    }
    const unsent = seqDiff(this.#sndEnd, this.#sndNxt);
    const usable = Math.max(this.#sndWnd - seqDiff(this.#sndNxt, this.#sndUna), least);
    const bytes = Math.max(0, Math.min(unsent, usable, this.#mss));
    const isFin =
      bytes === unsent && usable > bytes && (this.#state === 'close-wait' || this.#state === 'last-ack');
    if (bytes === 0 && !isFin) return false;
    const flags = ACK | (bytes > 0 && bytes === unsent ? PSH : 0) | (isFin ? FIN : 0);
    if (!this.#emit(this.#sndNxt, flags, bytes)) return false;
    this.#sent(bytes + (isFin ? 1 : 0));
    if (isFin) this.#state = 'last-ack';
    return true;
  }

  #sent(bytes: number): void {
    this.#sndNxt = seqAdd(this.#sndNxt, bytes);
    if (seqDiff(this.#sndNxt, this.#sndMax) > 0) this.#sndMax = this.#sndNxt;
  }

  /** The right edge allowed by the ring's free space. */
  #freeEdge(): number {
    if (this.#state === 'syn-received') return this.#rcvEdge;
    const held = Math.max(0, seqDiff(this.#sndEnd, this.#sndUna));
    return seqAdd(this.#rcvNxt, ECHO_BYTES - held);
  }

  /** Whether the window has grown enough to announce it. @see RFC 9293, section 3.8.6.2.2 */
  #opensWindow(): boolean {
    const step = Math.min(this.#wire.mtu - IPV4_BYTES - TCP_BYTES, ECHO_BYTES / 2);
    return this.#state === 'established' && seqDiff(this.#freeEdge(), this.#rcvEdge) >= step;
  }

  #emit(seq: number, flags: number, bytes: number): boolean {
    const { queue, reservedSlots, mtu } = this.#wire;
    const out = queue.room > reservedSlots ? queue.reserve() : undefined;
    if (out === undefined) {
      this.#owesOutput = true;
      return false;
    }
    if (this.#opensWindow()) this.#rcvEdge = this.#freeEdge();
    const reply = this.#reply;
    reply.sourcePort = ECHO_PORT;
    reply.destinationPort = this.#peerPort;
    reply.seq = seq;
    reply.ack = (flags & ACK) === 0 ? 0 : this.#rcvNxt;
    reply.flags = flags;
    reply.window = (flags & RST) === 0 ? Math.max(0, seqDiff(this.#rcvEdge, this.#rcvNxt)) : 0;
    reply.mss = (flags & SYN) === 0 ? 0 : mtu - IPV4_BYTES - TCP_BYTES;
    reply.dataBytes = bytes;
    if (bytes > 0) this.#load(out, seq, bytes);
    writeEthernet(out, this.#peerMac, 0, ETH_P_IP);
    queue.commit(writeTcp(out, this.#peerIp, reply));
    if ((flags & ACK) !== 0) this.#owesAck = false;
    return true;
  }

  #load(out: Uint8Array, seq: number, bytes: number): void {
    const at = seq & (ECHO_BYTES - 1);
    const first = Math.min(bytes, ECHO_BYTES - at);
    copyBytes(out, TCP_DATA, this.#ring!, at, first);
    copyBytes(out, TCP_DATA + first, this.#ring!, 0, bytes - first);
  }
}

import { ETH_P_IP, SOURCE_MAC_AT, writeEthernet } from './ethernet.js';
import { ECHO_PORT, type Verdict } from './host.js';
import type { Ipv4Packet } from './ipv4.js';
import { ACK, FIN, parseTcp, RST, SYN, seqAdd, TcpSegment, writeTcp } from './tcp.js';
import { TcpConnection, type TcpWire } from './tcp-connection.js';

/** Maximum connections; one more resets the one idle longest. With ECHO_BYTES, this bounds the memory at 2 MiB. */
export const TCP_CONNECTIONS = 64;

/**
 * The TCP echo server; it also resets connections to every other port.
 *
 * It has no timer: overdue data is retransmitted when the guest next sends any frame ({@link tick}), or at the third
 * duplicate ACK. A guest that loses a segment and then stays silent gets nothing more. That is acceptable on a wire
 * that loses nothing itself: a full queue delays segments, it does not drop them.
 * @see RFC 9293, RFC 862
 */
export class TcpEcho {
  readonly #wire: TcpWire;
  readonly #segment = new TcpSegment();
  readonly #reply = new TcpSegment();
  readonly #connections: readonly TcpConnection[];
  readonly #counts: { evicted: number };
  #uses = 0;
  /** No connection is due before this time. */
  #deadline = Number.POSITIVE_INFINITY;
  #owesOutput = false;
  /** Where resume() starts, so that no connection starves another. */
  #turn = 0;

  constructor(wire: TcpWire, counts: { evicted: number }) {
    this.#wire = wire;
    this.#counts = counts;
    this.#connections = Array.from({ length: TCP_CONNECTIONS }, () => new TcpConnection(wire));
  }

  /** Handles a segment that was sent to the host alone. */
  answer(packet: Ipv4Packet): Verdict {
    const segment = this.#segment;
    if (parseTcp(packet, segment) === 'malformed') return 'malformed';
    if (segment.destinationPort !== ECHO_PORT) {
      this.#refuse(packet, segment);
      return 'unanswered';
    }
    let connection = this.#find(packet.source, segment.sourcePort);
    if (connection !== undefined) {
      connection.take(packet, segment);
    } else {
      // Rejects SYN with FIN, an ACK of nothing, and no flags at all. Accepts SYN with ECN bits (RFC 3168, 6.1.1).
      if ((segment.flags & (SYN | ACK | FIN | RST)) !== SYN) {
        this.#refuse(packet, segment);
        return 'unanswered';
      }
      connection = this.#vacate();
      connection.open(packet, segment);
    }
    connection.lastUsed = ++this.#uses;
    this.#note(connection);
    return 'taken';
  }

  /** Retransmits what is overdue. Free while nothing is outstanding. */
  tick(): void {
    if (this.#deadline === Number.POSITIVE_INFINITY) return;
    const now = this.#wire.now();
    if (now < this.#deadline) return;
    this.#deadline = Number.POSITIVE_INFINITY;
    for (const connection of this.#connections) {
      if (connection.deadline <= now) connection.timeout();
      this.#note(connection);
    }
  }

  /** Sends output that did not fit in the queue, now that it may have room. Free while there is none. */
  resume(): void {
    if (!this.#owesOutput) return;
    this.#owesOutput = false;
    for (let i = 0; i < TCP_CONNECTIONS; i++) {
      const connection = this.#connections[(this.#turn + i) % TCP_CONNECTIONS]!;
      if (!connection.owesOutput) continue;
      connection.resume();
      this.#note(connection);
    }
    this.#turn = (this.#turn + 1) % TCP_CONNECTIONS;
  }

  #note(connection: TcpConnection): void {
    if (connection.deadline < this.#deadline) this.#deadline = connection.deadline;
    if (connection.owesOutput) this.#owesOutput = true;
  }

  #find(peerIp: number, peerPort: number): TcpConnection | undefined {
    for (let i = 0; i < TCP_CONNECTIONS; i++) {
      const connection = this.#connections[i]!;
      if (connection.isWith(peerIp, peerPort)) return connection;
    }
    return undefined;
  }

  /** Returns a closed connection, if necessary by resetting the one idle longest. */
  #vacate(): TcpConnection {
    let oldest = this.#connections[0]!;
    for (const connection of this.#connections) {
      if (connection.state === 'closed') return connection;
      if (connection.lastUsed < oldest.lastUsed) oldest = connection;
    }
    oldest.abort();
    this.#counts.evicted++;
    return oldest;
  }

  /** Resets a segment that belongs to no connection; never answers a reset. @see RFC 9293, section 3.10.7.1 */
  #refuse(packet: Ipv4Packet, segment: TcpSegment): void {
    if (segment.has(RST)) return;
    const out = this.#wire.queue.reserve();
    if (out === undefined) return;
    const reply = this.#reply;
    reply.sourcePort = segment.destinationPort;
    reply.destinationPort = segment.sourcePort;
    reply.flags = segment.has(ACK) ? RST : RST | ACK;
    reply.seq = segment.has(ACK) ? segment.ack : 0;
    reply.ack = segment.has(ACK) ? 0 : seqAdd(segment.seq, segment.length);
    writeEthernet(out, packet.frame, SOURCE_MAC_AT, ETH_P_IP);
    this.#wire.queue.commit(writeTcp(out, packet.source, reply));
  }
}

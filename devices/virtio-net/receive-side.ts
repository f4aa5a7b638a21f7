import type { NetPort } from '../net/index.js';
import { TUN_F_CSUM } from '../net/offloads.js';
import { empty, type SplitQueue } from '../virtio/split-queue.js';
import { byteOf, clearHeader, copyToParts, setByte, setCount } from './chain-bytes.js';
import { ExpectedFrames } from './expected-frames.js';
import type { ReceivedFrame, ReceiveReply } from './messages.js';
import {
  isWithin,
  longestFrame,
  MOST_SEGMENTED_BYTES,
  type Negotiated,
  NOTHING_NEGOTIATED,
} from './negotiated.js';
import type { SharedState } from './shared-state.js';
import { NET_HEADER_BYTES } from './spec.js';

/** Most frames per turn: bounds the time that unmaps and other tasks wait. A frame of several chains counts for more. */
const BURST = 64;
const CHAINS_PER_TURN = 4;
/** Most frames to drop when a driver starts: above the capacity of any port. */
const STALE_FRAMES = 1024;
/** Room for the longest frame. */
const SPARE_BYTES = NET_HEADER_BYTES + MOST_SEGMENTED_BYTES;

/** Parts of a {@link ReceiveSide}. */
export interface ReceiveSideParts {
  readonly port: NetPort;
  readonly state: SharedState;
  /** Longest frame without segmentation, in bytes. */
  readonly maxFrame: number;
  /** The port has failed; it is not asked for frames again. */
  readonly fail: (error: unknown) => void;
}

/**
 * Takes frames from a port and spreads each over as many chains as it needs. The port writes a frame into the first chain,
 * and what that has no room for into memory of ours, from which it is copied: most frames need one chain. A frame for which
 * the guest has too few is held until there are more. Event thread only.
 */
export class ReceiveSide {
  readonly #port: NetPort;
  readonly #state: SharedState;
  readonly #maxFrame: number;
  readonly #fail: ReceiveSideParts['fail'];
  readonly #hasHeaders: boolean;
  #negotiated = NOTHING_NEGOTIATED;
  /** Most bytes of a frame with its header. */
  #most: number;
  /** The end of a frame, or a whole one that is held. */
  readonly #spare = new Uint8Array(SPARE_BYTES);
  readonly #whole: readonly Uint8Array[] = [this.#spare];
  readonly #body: readonly Uint8Array[] = [this.#spare.subarray(NET_HEADER_BYTES)];
  /** What the port writes a frame to. */
  readonly #vector: Uint8Array[] = [];
  /** Bytes of the frame that is held, with its header; 0 if there is none. */
  #held = 0;
  readonly #expected = new ExpectedFrames(BURST);
  /** Whether a frame may be waiting for a buffer of the guest. */
  isStalled = false;
  #isGone = false;

  constructor({ port, state, maxFrame, fail }: ReceiveSideParts) {
    this.#port = port;
    this.#state = state;
    this.#maxFrame = maxFrame;
    this.#fail = fail;
    this.#hasHeaders = port.offloads !== undefined;
    this.#most = NET_HEADER_BYTES + maxFrame;
  }

  /** Whether the port has failed. */
  get isGone(): boolean {
    return this.#isGone;
  }

  /**
   * A driver has started: frames that arrived earlier are dropped, as a NIC does while it is down.
   * @param keepsFrames if another one has served the driver until now
   */
  start(negotiated: Negotiated, keepsFrames = false): void {
    this.#negotiated = negotiated;
    this.#most = NET_HEADER_BYTES + longestFrame(negotiated.guest, this.#maxFrame);
    this.#port.offloads?.accept(negotiated.guest);
    if (keepsFrames) {
      this.signalled(); // the other one may have left frames, or stopped because the port is gone
      return;
    }
    for (let i = 0; i < STALE_FRAMES && !this.#isGone && this.#port.pending() !== 0; i++)
      if (this.#read(this.#whole) === 0) return;
  }

  /** The driver has stopped. */
  stop(): void {
    this.isStalled = false;
    this.#held = 0;
    this.#expected.forget();
  }

  /** The port is readable. */
  signalled(): void {
    this.#expected.signalled();
  }

  #mayHaveFrame(): boolean {
    const next = this.#port.pending();
    return next < 0 ? this.#expected.hasMore : next > 0;
  }

  /** Returns whether frames may remain for which buffers may be available. */
  receive(queue: SplitQueue): boolean {
    this.isStalled = false;
    this.#expected.turn();
    for (let turn = 0; turn < BURST; turn++) {
      if (this.#held === 0 && !this.#mayHaveFrame()) return false;
      queue.suppressDoorbells();
      if (!this.#takeChain(queue, this.#most)) {
        if (queue.fault !== undefined || queue.isRemote) return false;
        if (queue.wantDoorbells()) continue;
        this.isStalled = true;
        return false;
      }
      const chains = this.#deliver(queue);
      if (chains === 0) return false;
      turn += Math.floor((chains - 1) / CHAINS_PER_TURN);
    }
    return true;
  }

  /** Copies frames for chains of a remote queue. @param capacities their bytes, in order */
  receiveRemote(capacities: readonly number[]): ReceiveReply {
    const frames: ReceivedFrame[] = [];
    let used = 0;
    for (let turn = 0; turn < BURST && used < capacities.length && !this.#isGone; turn++) {
      const total = this.#held || this.#readWhole();
      if (total === 0) {
        this.isStalled = false;
        break;
      }
      if (total < 0) continue;
      const chains = chainsFor(total, capacities, used);
      if (chains > 1 && !this.#negotiated.hasMergeable) this.#drop();
      else if (used + chains <= capacities.length) {
        setCount(this.#whole, chains);
        frames.push({ bytes: this.#spare.slice(0, total), chains });
        used += chains;
        this.#count(total);
      } else if (used > 0) {
        this.#held = total;
        break;
      } else this.#drop();
      this.#held = 0;
    }
    const next = this.#isGone ? 0 : this.#port.pending();
    // A port that cannot say what it has (a tap, -1) is readable if it has something.
    if (this.#held > 0) this.isStalled = true;
    else if (next >= 0) this.isStalled = next > 0;
    return { frames, hasMore: this.isStalled };
  }

  #drop(): void {
    this.#state.count('rxDropped');
  }

  #count(total: number): void {
    this.#state.count('rxPackets');
    this.#state.count('rxBytes', total - NET_HEADER_BYTES);
  }

  /** The next chain, which has room for a header. */
  #takeChain(queue: SplitQueue, limit: number): boolean {
    if (!queue.next(0, limit, this.#hasHeaders ? 0 : NET_HEADER_BYTES)) return false;
    if (queue.bytes >= NET_HEADER_BYTES) return true;
    queue.fault = `a receive buffer of ${queue.bytes} bytes`;
    return false;
  }

  /**
   * Delivers a frame to the chain that has been taken, and to further ones. Returns the chains that it has considered; 0
   * to end the turn.
   */
  #deliver(queue: SplitQueue): number {
    const room = Math.min(queue.bytes, this.#most);
    const isHeld = this.#held > 0;
    const total = isHeld ? this.#held : this.#readInto(queue.parts);
    if (!isHeld) this.#expected.read(total !== 0);
    if (total <= 0) {
      queue.unpop();
      return total === 0 ? 0 : 1;
    }
    if (isHeld) copyToParts(queue.parts, this.#spare, 0, Math.min(room, total));
    if (total > room) return this.#spread(queue, room, total, isHeld ? room : 0);
    setCount(queue.parts, 1);
    queue.push(total);
    this.#held = 0;
    this.#count(total);
    return 1;
  }

  /** As {@link NetPort.receive}, with a header. A frame that the guest must not have is dropped: -1. */
  #readInto(parts: readonly Uint8Array[]): number {
    const vector = this.#vector;
    empty(vector);
    if (this.#hasHeaders) for (let i = 0; i < parts.length; i++) vector.push(parts[i] as Uint8Array);
    else clearHeader(parts, vector);
    if (this.#negotiated.hasMergeable) vector.push(this.#spare);
    return this.#check(parts, this.#read(vector));
  }

  /** As {@link #readInto}, into the spare memory. */
  #readWhole(): number {
    if (this.#hasHeaders) return this.#check(this.#whole, this.#read(this.#whole));
    this.#spare.fill(0, 0, NET_HEADER_BYTES);
    return this.#check(this.#whole, this.#read(this.#body));
  }

  /** Returns the length with the header of a frame that has been read, or -1 if the guest must not have it. */
  #check(parts: readonly Uint8Array[], length: number): number {
    if (length <= 0) return length;
    const total = this.#hasHeaders ? length : NET_HEADER_BYTES + length;
    if (this.#isAllowed(parts, total)) return total;
    this.#drop();
    return -1;
  }

  /** Whether the guest has accepted what the frame needs. A port may have frames of an earlier driver. */
  #isAllowed(parts: readonly Uint8Array[], total: number): boolean {
    if (!this.#hasHeaders) return total - NET_HEADER_BYTES <= this.#maxFrame;
    const { guest } = this.#negotiated;
    if (!isWithin(parts, total - NET_HEADER_BYTES, guest, this.#maxFrame)) return false;
    // DATA_VALID is of no use to a driver without GUEST_CSUM, and must not be set. 5.1.6.4.1
    if (byteOf(parts, 0) !== 0 && (guest & TUN_F_CSUM) === 0) setByte(parts, 0, 0);
    return true;
  }

  /**
   * Spreads a frame over chains, of which the first is full. Returns how many it has considered; 0 to end the turn.
   * @param at where the rest of the frame is in the spare memory
   */
  #spread(queue: SplitQueue, room: number, total: number, at: number): number {
    const first = [...queue.parts];
    queue.push(room);
    let chains = 1;
    let done = room;
    while (done < total && chains < queue.size && this.#takeChain(queue, total - done)) {
      const bytes = Math.min(queue.bytes, total - done);
      copyToParts(queue.parts, this.#spare, at + done - room, bytes);
      queue.push(bytes);
      done += bytes;
      chains++;
    }
    if (done === total) {
      setCount(first, chains);
      this.#held = 0;
      this.#count(total);
      return chains;
    }
    queue.unpush(chains);
    if (queue.fault === undefined) queue.unpop(chains);
    if (queue.fault !== undefined || chains === queue.size) {
      // The whole queue has no room for it.
      this.#held = 0;
      this.#drop();
      return queue.fault === undefined ? chains : 0;
    }
    if (this.#held === 0) this.#hold(first, room, total);
    if (queue.isRemote) return 0;
    if (queue.wantDoorbells(chains)) return chains;
    this.isStalled = true;
    return 0;
  }

  /** Holds a frame whose first bytes are in a chain that goes back to the guest. */
  #hold(first: readonly Uint8Array[], room: number, total: number): void {
    const spare = this.#spare;
    spare.copyWithin(room, 0, total - room);
    let done = 0;
    for (const part of first) {
      spare.set(part, done);
      done += part.length;
    }
    this.#held = total;
  }

  /** As {@link NetPort.receive}. Reports a port that fails, and returns no further frames. */
  #read(parts: readonly Uint8Array[]): number {
    try {
      const length = this.#port.receive(parts);
      if (length < 0) this.#drop();
      return length;
    } catch (error) {
      this.#isGone = true;
      this.#fail(error);
      return 0;
    }
  }
}

/** Chains from index `from` on that hold `total` bytes; one more than there are if all of them do not. */
function chainsFor(total: number, capacities: readonly number[], from: number): number {
  let left = total;
  let index = from;
  while (left > 0 && index < capacities.length) left -= capacities[index++] as number;
  return index - from + (left > 0 ? 1 : 0);
}

import type { QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { type RemoteAccess, type RemoteBuffer, RemoteQueue } from '../virtio/remote-queue.js';
import { type QueueEnd, RemoteTurn } from '../virtio/remote-turn.js';
import type { QueueCommand, ReceiveReply } from './messages.js';
import { longestFrame, type Negotiated, NOTHING_NEGOTIATED } from './negotiated.js';
import { isReceiveQueue, receiveQueueOf, transmitQueueOf } from './queue-layout.js';
import { NET_HEADER_BYTES } from './spec.js';

/** Most chains whose frames pass to the event thread in one message. */
const TX_BATCH = 64;
const RX_BATCH = 8;

/** Parts of a {@link RemotePath}. */
export interface RemotePathParts {
  /** The queue pair. */
  readonly pair: number;
  /** Longest frame without segmentation either way, in bytes. */
  readonly maxFrame: number;
  /** Accesses the guest's memory, wherever it is. */
  readonly access: RemoteAccess;
  /** Sends a command to the pair's queue task, and waits for the reply. */
  readonly call: (command: QueueCommand) => unknown;
  /** Whether the device may access memory. */
  readonly isMaster: () => boolean;
  /** A queue has stopped because the guest violated the specification, or because its memory cannot be accessed. */
  readonly report: (queue: number, cause: QueueEnd) => void;
}

/**
 * Serves queues of a pair whose rings or buffers are in another process (memory that a vfio-user client does not share). The data
 * path hands them over when it first meets such memory, and they stay here until the device is reset. It cannot serve
 * them itself: messages wait for the client, and the event thread must not wait. Frames pass to and from its port as
 * copies. Machine thread only.
 */
export class RemotePath {
  readonly #parts: RemotePathParts;
  readonly #turn: RemoteTurn;
  readonly #setups = new Map<number, QueueSetup>();
  readonly #queues = new Map<number, RemoteQueue>();
  #negotiated = NOTHING_NEGOTIATED;
  /** Incremented by each stop: notices of queues that have stopped since are out of date. */
  epoch = 0;

  constructor(parts: RemotePathParts) {
    this.#parts = parts;
    this.#turn = new RemoteTurn(parts.access, 'the queues');
  }

  /** Queues have started, in the event thread. */
  start(queues: readonly QueueSetup[], negotiated: Negotiated): void {
    this.#negotiated = negotiated;
    for (const setup of queues) this.#setups.set(setup.index, setup);
  }

  /** All queues have stopped. */
  stop(): void {
    this.epoch++;
    this.#setups.clear();
    this.#queues.clear();
  }

  /** Where the queues that it has would go on: between turns, what it has taken it has returned. */
  get positions(): QueuePositions {
    return new Map(Array.from(this.#queues, ([index, queue]) => [index, queue.position]));
  }

  /** The event thread hands over a queue. Returns false if that has been stopped in the meantime. */
  add(index: number, position: number, epoch: number): boolean {
    const setup = this.#setups.get(index);
    if (epoch !== this.epoch || setup === undefined) return false;
    this.#queues.set(
      index,
      new RemoteQueue(setup, this.#turn.access, isReceiveQueue(index) ? 'write' : 'read', position),
    );
    return true;
  }

  /** Runs one turn of the queues, which takes a bounded time. */
  turn(): void {
    this.#turn.begin();
    let hasMore = false;
    if (this.#parts.isMaster()) {
      // Transmit first: the port may have the replies ready for the receive that follows.
      const { pair } = this.#parts;
      hasMore = this.#guard(transmitQueueOf(pair), (queue) => this.#transmit(queue));
      hasMore = this.#guard(receiveQueueOf(pair), (queue) => this.#receive(queue)) || hasMore;
    }
    this.#parts.call({ kind: 'endTurn', hasMore });
  }

  #guard(index: number, serve: (queue: RemoteQueue) => boolean): boolean {
    const queue = this.#queues.get(index);
    if (queue === undefined) return false;
    return this.#turn.serve(queue, serve, (cause) => this.#giveUp(index, cause));
  }

  /** 2.1.2: the device needs a reset, and the queue is not processed until then. */
  #giveUp(index: number, cause: QueueEnd): void {
    this.#queues.delete(index);
    this.#parts.call({ kind: 'giveUp', queue: index });
    this.#parts.report(index, cause);
  }

  /** Returns whether to continue in another turn. */
  #transmit(queue: RemoteQueue): boolean {
    const { maxFrame, call } = this.#parts;
    const most = NET_HEADER_BYTES + longestFrame(this.#negotiated.host, maxFrame);
    while (queue.fetch() || queue.wantDoorbells()) {
      const frames: Uint8Array[] = [];
      const heads: number[] = [];
      while (frames.length < TX_BATCH && !this.#turn.isOver && queue.next(0, most)) {
        const isFrame = queue.bytes > NET_HEADER_BYTES && queue.bytes <= most;
        frames.push(isFrame ? queue.take() : new Uint8Array(0));
        heads.push(queue.head);
      }
      const taken = frames.length === 0 ? 0 : (call({ kind: 'transmit', frames }) as number);
      for (const head of heads.slice(0, taken)) queue.push(0, head);
      // A port that is full asks for a turn when it has room.
      if (taken < frames.length && queue.fault === undefined) queue.unpop(frames.length - taken);
      this.#publish(queue);
      if (queue.fault !== undefined || taken < frames.length) return false;
      if (this.#turn.isOver) return true;
    }
    return false;
  }

  /** As {@link #transmit}. */
  #receive(queue: RemoteQueue): boolean {
    const { call } = this.#parts;
    // Reads no ring unless there is a frame.
    let { hasMore } = call({ kind: 'receive', capacities: [] }) as ReceiveReply;
    let isOver = false;
    while (hasMore && !isOver && (queue.fetch() || queue.wantDoorbells())) {
      const chains = this.#buffers(queue);
      const capacities = chains.map(({ bytes }) => bytes);
      const reply = call({ kind: 'receive', capacities }) as ReceiveReply;
      hasMore = reply.hasMore;
      let used = 0;
      for (const frame of reply.frames) {
        this.#write(queue, frame.bytes, chains.slice(used, used + frame.chains));
        used += frame.chains;
      }
      if (queue.fault === undefined) queue.unpop(chains.length - used);
      this.#publish(queue);
      if (queue.fault !== undefined) return false;
      isOver = this.#turn.isOver;
    }
    return hasMore && isOver;
  }

  /** Writes a frame to chains that have room for it. */
  #write(queue: RemoteQueue, frame: Uint8Array, chains: readonly RxChain[]): void {
    let done = 0;
    for (const { buffers, head, bytes } of chains) {
      const piece = frame.subarray(done, done + bytes);
      queue.write(buffers, piece);
      queue.push(piece.length, head);
      done += bytes;
    }
  }

  /** Some chains: enough for the longest frame, if there are, should it be spread. */
  #buffers(queue: RemoteQueue): RxChain[] {
    const { guest, hasMergeable } = this.#negotiated;
    const most = NET_HEADER_BYTES + longestFrame(guest, this.#parts.maxFrame);
    const chains: RxChain[] = [];
    let room = 0;
    while ((chains.length < RX_BATCH || (hasMergeable && room < most)) && queue.next(0, most)) {
      const { buffers, head, bytes } = queue;
      if (bytes < NET_HEADER_BYTES) {
        queue.fail(`a receive buffer of ${bytes} bytes`);
        break;
      }
      chains.push({ buffers, head, bytes: Math.min(bytes, most) });
      room += bytes;
    }
    return chains;
  }

  #publish(queue: RemoteQueue): void {
    if (queue.publish()) this.#parts.call({ kind: 'used', queue: queue.index });
  }
}

interface RxChain {
  readonly buffers: readonly RemoteBuffer[];
  readonly head: number;
  readonly bytes: number;
}

import type { QueueSetup } from '../virtio/queue-setup.js';
import { type RemoteAccess, type RemoteBuffer, RemoteQueue } from '../virtio/remote-queue.js';
import { type QueueEnd, RemoteTurn } from '../virtio/remote-turn.js';
import type { DiskCommand, RemoteDone } from './messages.js';
import { MOST_REMOTE_CHAIN_BYTES } from './spec.js';

/** Most requests that are begun and not returned, and the bytes from which on no further one begins: both are copies. */
const MOST_BEGUN = 64;
const MOST_BEGUN_BYTES = MOST_REMOTE_CHAIN_BYTES;

/** Parts of a {@link RemotePath}. */
export interface RemotePathParts {
  /** Accesses the guest's memory, wherever it is. */
  readonly access: RemoteAccess;
  /** Sends a command to the queue task, and waits for the reply. */
  readonly call: (command: DiskCommand) => unknown;
  /** Whether the device may access memory. */
  readonly isMaster: () => boolean;
  /** The queue has stopped because the guest violated the specification, or because its memory cannot be accessed. */
  readonly report: (cause: QueueEnd) => void;
}

/** A chain whose request is not returned. */
interface Begun {
  readonly head: number;
  readonly buffers: readonly RemoteBuffer[];
  readonly bytes: number;
}

/**
 * Serves a disk's queue whose rings or buffers are in another process (memory that a vfio-user client does not share). The disk's
 * thread hands it over when it first meets such memory, and it stays here until the device is reset: messages wait for the client,
 * for which that thread must not wait. Requests go to it, and their data back, as copies. Machine thread only.
 */
export class RemotePath {
  readonly #parts: RemotePathParts;
  readonly #turn: RemoteTurn;
  #setup: QueueSetup | undefined;
  #queue: RemoteQueue | undefined;
  readonly #begun = new Map<number, Begun>();
  #bytes = 0;
  #done: RemoteDone[] = [];
  #lastId = 0;
  /** Incremented by each stop: a notice of a queue that has stopped since is out of date. */
  epoch = 0;

  constructor(parts: RemotePathParts) {
    this.#parts = parts;
    this.#turn = new RemoteTurn(parts.access, 'the queue');
  }

  /** The queue has started, in the disk's thread. */
  start(setup: QueueSetup): void {
    this.#setup = setup;
  }

  stop(): void {
    this.epoch++;
    this.#setup = undefined;
    this.#forget();
  }

  /** The disk's thread hands the queue over. Returns false if that has been stopped in the meantime. */
  add(position: number, epoch: number): boolean {
    if (epoch !== this.epoch || this.#setup === undefined) return false;
    this.#queue = new RemoteQueue(this.#setup, this.#turn.access, 'both', position);
    return true;
  }

  /**
   * Returns all that has begun, which is done, and where the queue would go on; undefined if it does not run here. Its memory's owner has
   * as long as for a turn; if it takes longer, the queue stops.
   */
  finish(): number | undefined {
    const queue = this.#queue;
    if (queue === undefined) return undefined;
    this.#turn.begin();
    this.#turn.serve(
      queue,
      () => {
        do this.#return(queue);
        while (this.#done.length > 0);
        return false;
      },
      (cause) => this.#giveUp(cause),
    );
    return this.#queue?.position;
  }

  /** Runs one turn of the queue, which takes a bounded time. */
  turn(): void {
    this.#turn.begin();
    const queue = this.#queue;
    const hasMore =
      queue !== undefined &&
      this.#parts.isMaster() &&
      this.#turn.serve(
        queue,
        () => this.#serve(queue),
        (cause) => this.#giveUp(cause),
      );
    this.#parts.call({ kind: 'endTurn', hasMore });
  }

  /** 2.1.2: the device needs a reset, and the queue is not processed until then. */
  #giveUp(cause: QueueEnd): void {
    this.#forget();
    this.#parts.call({ kind: 'giveUp' });
    this.#parts.report(cause);
  }

  #forget(): void {
    this.#queue = undefined;
    this.#begun.clear();
    this.#bytes = 0;
    this.#done = [];
  }

  /** Returns whether to continue in another turn, besides the one that the end of a request leads to. */
  #serve(queue: RemoteQueue): boolean {
    this.#return(queue);
    while (!this.#turn.isOver && this.#hasRoom && (queue.fetch() || queue.wantDoorbells())) {
      while (this.#hasRoom && !this.#turn.isOver && queue.next(0, MOST_REMOTE_CHAIN_BYTES))
        this.#begin(queue);
      if (queue.fault !== undefined) return false;
      this.#return(queue);
    }
    return this.#turn.isOver;
  }

  get #hasRoom(): boolean {
    return this.#begun.size === 0 || (this.#begun.size < MOST_BEGUN && this.#bytes < MOST_BEGUN_BYTES);
  }

  #begin(queue: RemoteQueue): void {
    const { head, bytes, buffers } = queue;
    if (bytes > MOST_REMOTE_CHAIN_BYTES) {
      queue.fail(
        `a request of ${bytes} bytes, where ${MOST_REMOTE_CHAIN_BYTES} are allowed in memory that is not shared`,
      );
      return;
    }
    this.#lastId = (this.#lastId + 1) % 2 ** 32;
    const id = this.#lastId;
    const room = buffers.reduce((sum, buffer) => sum + buffer.bytes, 0);
    const problem = this.#parts.call({ kind: 'begin', request: { id, given: queue.take(), room } });
    if (typeof problem === 'string') {
      queue.fail(problem);
      return;
    }
    this.#begun.set(id, { head, buffers, bytes });
    this.#bytes += bytes;
  }

  /** Returns what is done, as far as the turn goes, but one at least. */
  #return(queue: RemoteQueue): void {
    this.#done.push(...(this.#parts.call({ kind: 'takeDone' }) as readonly RemoteDone[]));
    let count = 0;
    for (const { id, space } of this.#done) {
      if (count > 0 && this.#turn.isOver) break;
      count++;
      const { head, buffers, bytes } = this.#begun.get(id) as Begun;
      this.#begun.delete(id);
      this.#bytes -= bytes;
      queue.write(buffers, space);
      queue.push(space.length, head);
    }
    this.#done = this.#done.slice(count);
    if (count > 0 && queue.publish()) this.#parts.call({ kind: 'used' });
  }
}

import type { QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { type RemoteAccess, RemoteQueue } from '../virtio/remote-queue.js';
import { type QueueEnd, RemoteTurn } from '../virtio/remote-turn.js';
import {
  VIRTIO_NET_CTRL_MQ,
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
  VIRTIO_NET_ERR,
  VIRTIO_NET_OK,
} from './spec.js';

/** Longest request in bytes, with the room for its answer. What stock drivers send is far below. */
const MOST_REQUEST_BYTES = 4096;
/** struct virtio_net_ctrl_hdr, and virtqueue_pairs of struct virtio_net_ctrl_mq. */
const HEADER_BYTES = 2;
const PAIRS_BYTES = 2;

/** Parts of a {@link ControlQueue}. */
export interface ControlQueueParts {
  /** Accesses the guest's memory, wherever it is. */
  readonly access: RemoteAccess;
  /** Whether the device may access memory. */
  readonly isMaster: () => boolean;
  /** Uses this many queue pairs from now on. Returns false, without a change, if that is not possible. */
  readonly setPairs: (pairs: number) => boolean;
  /** Raises the queue's interrupt. */
  readonly used: (queue: number) => void;
  /** The queue has stopped because the guest violated the specification, or because its memory cannot be accessed. */
  readonly report: (queue: number, cause: QueueEnd) => void;
}

/**
 * Serves the control queue (5.1.6.5) in the registers' thread: what a request changes is changed, in each pair's thread, before
 * its answer can be seen. Of the classes of requests there is one, the number of queue pairs; others, as all that cannot be done,
 * are answered with VIRTIO_NET_ERR. Machine thread only.
 */
export class ControlQueue {
  readonly #parts: ControlQueueParts;
  readonly #turn: RemoteTurn;
  #queue: RemoteQueue | undefined;

  constructor(parts: ControlQueueParts) {
    this.#parts = parts;
    this.#turn = new RemoteTurn(parts.access, 'the queue');
  }

  /** @param position where it goes on; 0 if a driver has just set it up */
  start(setup: QueueSetup, position: number): void {
    this.#queue = new RemoteQueue(setup, this.#turn.access, 'both', position);
  }

  /** Where it would go on; empty while it does not run. */
  get positions(): QueuePositions {
    const queue = this.#queue;
    return new Map(queue === undefined ? [] : [[queue.index, queue.position]]);
  }

  stop(): void {
    this.#queue = undefined;
  }

  /** Runs one turn of the queue, which takes a bounded time. Returns whether to continue in another one. */
  turn(): boolean {
    const queue = this.#queue;
    if (queue === undefined || !this.#parts.isMaster()) return false;
    this.#turn.begin();
    return this.#turn.serve(
      queue,
      () => this.#serve(queue),
      (cause) => {
        // 2.1.2: the device needs a reset, and the queue is not processed until then.
        this.#queue = undefined;
        this.#parts.report(queue.index, cause);
      },
    );
  }

  #serve(queue: RemoteQueue): boolean {
    while (queue.fetch() || queue.wantDoorbells()) {
      if (!queue.next(0, MOST_REQUEST_BYTES)) return false;
      const { buffers } = queue;
      if (queue.bytes > MOST_REQUEST_BYTES)
        queue.fail(`a control request of ${queue.bytes} bytes, where ${MOST_REQUEST_BYTES} are allowed`);
      else if (buffers.length === 0) queue.fail('a control request without room for its answer');
      if (queue.fault !== undefined) return false;
      const answer = this.#obey(queue.take()) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
      queue.write(buffers, Uint8Array.of(answer));
      queue.push(1, queue.head);
      if (queue.publish()) this.#parts.used(queue.index);
      // Behind a request, not before: each turn serves one, however slow its memory is.
      if (this.#turn.isOver) return true;
    }
    return false;
  }

  /** Returns whether the request has been carried out. */
  #obey(request: Uint8Array): boolean {
    const [kind, command, low = 0, high = 0] = request;
    if (kind !== VIRTIO_NET_CTRL_MQ || command !== VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) return false;
    return request.length === HEADER_BYTES + PAIRS_BYTES && this.#parts.setPairs(low | (high << 8));
  }
}

import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { type RemoteAccess, RemoteQueue } from '../virtio/remote-queue.js';
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
/** No further request begins later in a turn, so that exits of the guest and commands of a client are served in between. */
const TURN_MS = 20;
/** No access begins later: a client that answers each one slowly would otherwise hold this thread for long. */
const MOST_TURN_MS = 5000;

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
  readonly report: (queue: number, cause: { readonly misuse: string } | { readonly error: SysError }) => void;
}

/**
 * Serves the control queue (5.1.6.5) in the registers' thread: what a request changes is changed, in each pair's thread, before
 * its answer can be seen. Of the classes of requests there is one, the number of queue pairs; others, as all that cannot be done,
 * are answered with VIRTIO_NET_ERR. Machine thread only.
 */
export class ControlQueue {
  readonly #parts: ControlQueueParts;
  #queue: RemoteQueue | undefined;
  #begun = 0;

  constructor(parts: ControlQueueParts) {
    this.#parts = parts;
  }

  start(setup: QueueSetup): void {
    const access: RemoteAccess = (iova, data, isWrite) => this.#access(iova, data, isWrite);
    this.#queue = new RemoteQueue(setup, access, 'both', 0);
  }

  stop(): void {
    this.#queue = undefined;
  }

  /** Runs one turn of the queue, which takes a bounded time. Returns whether to continue in another one. */
  turn(): boolean {
    const queue = this.#queue;
    if (queue === undefined || !this.#parts.isMaster()) return false;
    this.#begun = performance.now();
    try {
      const hasMore = this.#serve(queue);
      if (queue.fault === undefined) return hasMore;
      this.#giveUp(queue, { misuse: queue.fault });
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.#giveUp(queue, { error });
    }
    return false;
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
      if (this.#elapsed >= TURN_MS) return true;
    }
    return false;
  }

  /** Returns whether the request has been carried out. */
  #obey(request: Uint8Array): boolean {
    const [kind, command, low = 0, high = 0] = request;
    if (kind !== VIRTIO_NET_CTRL_MQ || command !== VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) return false;
    return request.length === HEADER_BYTES + PAIRS_BYTES && this.#parts.setPairs(low | (high << 8));
  }

  get #elapsed(): number {
    return performance.now() - this.#begun;
  }

  #access(iova: number, data: Uint8Array, isWrite: boolean): void {
    if (this.#elapsed >= MOST_TURN_MS) {
      const hint = `its owner has taken ${MOST_TURN_MS / 1000} s for what a turn of the queue accesses`;
      throw new SysError({ call: 'vfio_dma_rw', target: 'guest memory', errno: errno.ETIMEDOUT, hint });
    }
    this.#parts.access(iova, data, isWrite);
  }

  /** 2.1.2: the device needs a reset, and the queue is not processed until then. */
  #giveUp(queue: RemoteQueue, cause: Parameters<ControlQueueParts['report']>[1]): void {
    this.#queue = undefined;
    this.#parts.report(queue.index, cause);
  }
}

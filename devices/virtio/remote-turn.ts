import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { RemoteAccess, RemoteQueue } from './remote-queue.js';

/** A turn ends after this time, so that exits of the guest and a client's commands are served in between. */
const TURN_MS = 20;
/** No access begins later in a turn: a client that answers each one slowly would otherwise hold the thread for long. */
const MOST_TURN_MS = 5000;

/** Why a queue has stopped: the guest violated the specification, or its memory cannot be accessed. */
export type QueueEnd = { readonly misuse: string } | { readonly error: SysError };

/** Bounds the turns of queues that the registers' thread serves, as their memory is another process's. Machine thread only. */
export class RemoteTurn {
  /** Accesses the guest's memory, while the turn may. @throws SysError also ETIMEDOUT */
  readonly access: RemoteAccess;
  #begun = 0;

  /** @param whose turn it is, in messages: `the queues` */
  constructor(access: RemoteAccess, whose: string) {
    this.access = (iova, data, isWrite) => {
      if (this.#elapsed >= MOST_TURN_MS) {
        const hint = `its owner has taken ${MOST_TURN_MS / 1000} s for what a turn of ${whose} accesses`;
        throw new SysError({ call: 'vfio_dma_rw', target: 'guest memory', errno: errno.ETIMEDOUT, hint });
      }
      access(iova, data, isWrite);
    };
  }

  begin(): void {
    this.#begun = performance.now();
  }

  get isOver(): boolean {
    return this.#elapsed >= TURN_MS;
  }

  get #elapsed(): number {
    return performance.now() - this.#begun;
  }

  /** Returns whether `serve` has more to do, or false once `giveUp` has been told why the queue is served no more. */
  serve(
    queue: RemoteQueue,
    serve: (queue: RemoteQueue) => boolean,
    giveUp: (end: QueueEnd) => void,
  ): boolean {
    try {
      const hasMore = serve(queue);
      if (queue.fault === undefined) return hasMore;
      giveUp({ misuse: queue.fault });
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      giveUp({ error });
    }
    return false;
  }
}

/** A queue that the driver has started, as the kernel runs it. Event thread. */
import type { EventContext } from '../../sys/event-task.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import type { KernelQueues } from '../net/index.js';
import type { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { type IovaRange, overlaps, type RingAddresses, ringsOf } from './kernel-memory.js';
import type { QueueTaskData } from './messages.js';

/** Queues of a pair, which are 0 and 1 to the kernel. */
export const PAIR_QUEUES = 2;

/** What a {@link StartedQueue} works with. */
export interface StartedQueueParts {
  /** Closed with the port. */
  readonly kernel: KernelQueues;
  readonly signals: InterruptSignals;
  readonly context: EventContext;
  readonly doorbells: QueueTaskData['doorbells'];
}

/** What the kernel signals to this process, for one of the queues of a pair. */
export interface QueueEventfds {
  /** Its interrupt, if it has no MSI-X eventfd: that of INTx, or of a vector that is masked. */
  readonly call: Fd;
  /** That it cannot go on. */
  readonly err: Fd;
}

/** Event thread only. */
export class StartedQueue {
  readonly setup: QueueSetup;
  readonly #parts: StartedQueueParts;
  readonly #eventfds: QueueEventfds;
  /** Present while the kernel runs it. */
  readonly #watches: Disposable[] = [];
  #position: number;
  #isRunning = false;

  constructor(parts: StartedQueueParts, eventfds: QueueEventfds, setup: QueueSetup, position: number) {
    this.#parts = parts;
    this.#eventfds = eventfds;
    this.setup = setup;
    this.#position = position;
  }

  /** Whether the kernel runs it. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Index of the next chain, while the kernel does not run it. */
  get position(): number {
    return this.#position;
  }

  /** Has the kernel run it. @param onError called when it cannot go on @throws SysError of the kernel */
  run(rings: RingAddresses, onError: () => void): void {
    const { kernel, signals, context } = this.#parts;
    const { call, err } = this.#eventfds;
    const { index, size, device } = this.setup;
    drainEventfd(call.number);
    drainEventfd(err.number);
    this.#watches.push(
      context.watch(call.number, () => signals.queue(index), true),
      context.watch(err.number, onError, true),
    );
    kernel.start({
      index: this.#inKernel,
      size,
      ...rings,
      usedIova: device,
      position: this.#position,
      kick: this.#doorbell,
      call: this.#target,
      err: err.number,
    });
    this.#isRunning = true;
    // Chains may wait since a doorbell that nobody heard.
    this.kick();
  }

  /** Stops it if it runs, and remembers where. @throws SysError of the kernel */
  halt(): void {
    if (this.#isRunning) this.#position = this.#parts.kernel.stop(this.#inKernel);
    this.lose();
  }

  /** The kernel does not run it any more, by itself. */
  lose(): void {
    this.#isRunning = false;
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
  }

  /** Its interrupt's eventfd may be another one now. @throws SysError of the kernel */
  retarget(): void {
    if (this.#isRunning) this.#parts.kernel.setCall(this.#inKernel, this.#target);
  }

  /** Has the kernel look for chains. */
  kick(): void {
    signalEventfd(this.#doorbell);
  }

  /** Calls `listener` at the next doorbell that the kernel does not hear, until the result is disposed. */
  watchDoorbell(listener: () => void): Disposable {
    drainEventfd(this.#doorbell); // those that the kernel has heard
    return this.#parts.context.watch(this.#doorbell, listener, true);
  }

  /** Passes on an interrupt that the kernel has left with us, and that nobody has heard yet. */
  passInterrupt(): void {
    if (drainEventfd(this.#eventfds.call.number) > 0n) this.#parts.signals.queue(this.setup.index);
  }

  /** Whether one of its rings is in that range, or a part of it. */
  hasRingIn(range: IovaRange): boolean {
    return ringsOf(this.setup).some((ring) => overlaps(ring, range));
  }

  get #inKernel(): number {
    return this.setup.index % PAIR_QUEUES;
  }

  get #doorbell(): number {
    return this.#parts.doorbells[this.setup.index] as number;
  }

  /** The queue's MSI-X eventfd, which the kernel signals without us; ours, if there is none. */
  get #target(): number {
    const direct = this.#parts.signals.direct(this.setup.index);
    return direct < 0 ? this.#eventfds.call.number : direct;
  }
}

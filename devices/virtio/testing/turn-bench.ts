import { Fd } from '../../../sys/fd.js';
import { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { Scope } from '../../../sys/scope.js';
import type { MdevInstance, VendorDriver } from '../../../vfio/driver.js';
import { GuestDriver, GuestMemory, GuestQueue, maps, STATUS } from '../../virtio-net/testing/guest.js';
import { start } from '../turn-task.js';

const TRIGGER_EVENTFD = (1 << 2) | (1 << 5);
const UUID = 'f1d2c0de-0000-4000-8000-000000000003';
/** Nobody wakes who waits here. */
const NOBODY = new Int32Array(new SharedArrayBuffer(4));
const QUEUE_BYTES = 0x4000;
/** Where a test may put what it likes, behind the rings. */
export const DATA: number = maps.main.iova + 0x1_0000;

/** A device whose registers' thread serves its queues, in the hands of a test: open, with memory, a driver and eventfds. */
export class TurnBench<Instance extends MdevInstance> implements Disposable {
  readonly #scope: Scope;
  readonly thread: InlineEventThread;
  readonly instance: Instance;
  readonly memory: GuestMemory;
  readonly driver: GuestDriver;
  /** Of the configuration, and of each queue. */
  readonly vectors: readonly Fd[];
  queues: readonly GuestQueue[] = [];

  /**
   * @param queues number of the device's
   * @param create the driver, given the URL of its task's module
   * @param memory of a guest that another device has had until now; its own if absent
   */
  constructor(
    queues: number,
    create: (module: URL) => Pick<VendorDriver, 'types'> & {
      create(...args: Parameters<VendorDriver['create']>): Instance;
    },
    options: Readonly<Record<string, string>> = {},
    memory?: GuestMemory,
  ) {
    using scope = new Scope();
    const task = new URL('test:turn-task');
    this.thread = scope.own(new InlineEventThread(new Map([[task.href, start]])));
    this.memory = memory ?? scope.own(new GuestMemory());
    const driver = create(task);
    this.instance = scope.own(driver.create(driver.types[0]!, UUID, options, { eventThread: this.thread }));
    this.instance.ops.openDevice(this.memory.open);
    scope.defer(() => this.instance.ops.closeDevice());
    this.vectors = Array.from({ length: queues + 1 }, (_, i) => scope.own(Fd.eventfd(`vector ${i}`)));
    const data = this.vectors.map((fd) => fd.number);
    const count = data.length;
    this.instance.ops.setIrqs({ index: 2, flags: TRIGGER_EVENTFD, start: 0, count, data });
    this.driver = new GuestDriver(this.instance.ops, this.memory);
    this.#scope = scope.move();
  }

  /** Brings the device up. */
  start(features?: bigint, queueSize = 64): this {
    this.driver.negotiate(features);
    this.driver.commonWrite(0x10, 2, 0);
    this.queues = this.vectors
      .slice(1)
      .map((_, i) => new GuestQueue(this.memory, queueSize, maps.main.iova + i * QUEUE_BYTES));
    for (const [i, queue] of this.queues.entries()) this.driver.setUpQueue(i, queue, i + 1);
    this.driver.status |= STATUS.driverOk;
    this.thread.pump();
    return this;
  }

  /** Rings a doorbell, and lets the device work until it rests. */
  ring(queue: number): void {
    this.driver.ring(queue);
    this.settle();
  }

  /** Lets the device work until it rests: a turn is followed by another one after a millisecond. */
  settle(): void {
    this.thread.pump();
    for (let before = -1; this.#isBehind && before !== this.#used; this.thread.pump()) {
      before = this.#used;
      Atomics.wait(NOBODY, 0, 0, 2);
    }
  }

  get #isBehind(): boolean {
    return this.queues.some(({ usedIndex, availIndex }) => usedIndex !== availIndex);
  }

  get #used(): number {
    return this.queues.reduce((sum, { usedIndex }) => sum + usedIndex, 0);
  }

  get needsReset(): boolean {
    return (this.driver.status & STATUS.needsReset) !== 0;
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

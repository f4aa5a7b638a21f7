import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import type { DmaTableBuffer } from '../../vfio/dma-table.js';
import type { WrittenPages } from '../../vfio/written-pages.js';
import type { NetPort } from '../net/index.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from '../virtio/spec.js';
import type { DataPath } from './data-path.js';
import { BeyondKernel, KernelMemory } from './kernel-memory.js';
import type { QueueNotice } from './messages.js';
import { type Negotiated, NOTHING_NEGOTIATED } from './negotiated.js';
import { isReceiveQueue } from './queue-layout.js';
import type { SharedState } from './shared-state.js';
import { VIRTIO_NET_F_MRG_RXBUF } from './spec.js';
import { PAIR_QUEUES, type QueueEventfds, StartedQueue, type StartedQueueParts } from './started-queue.js';

/** Features that whoever moves the frames has to have: the others are the registers'. */
export const QUEUE_FEATURES: bigint =
  VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_NET_F_MRG_RXBUF;

/** How often to look whether the port's interface is still there, which the kernel does not say. */
const LOOK_MS = 1000;

/** Parts of a {@link KernelPath}. */
export interface KernelPathParts extends StartedQueueParts {
  readonly port: NetPort;
  /** The same port's data path in this thread, which takes over what the kernel cannot serve. */
  readonly path: DataPath;
  readonly state: SharedState;
  readonly pair: number;
}

/**
 * Has the kernel move the frames between a queue pair of the guest and the port: doorbells go to it, and MSI-X messages come from it,
 * without this process. What it cannot do passes to the data path of this thread, at the chain where it stopped, until
 * the device is reset: memory of another process or for one direction only, a chain that violates the specification (which the
 * data path then names), too many maps, an interface that is gone. Event thread only.
 *
 * The kernel's memory follows the device's maps. An unmap takes its range away at once ({@link unmap}). A map is
 * given when a chain first needs it: the kernel reports an error, and {@link remap} reads the maps. The registers' thread asks
 * for that, as it alone knows that no unmap is half done.
 */
export class KernelPath implements Disposable {
  readonly #parts: KernelPathParts;
  readonly #scope: Scope;
  /** By the kernel's number of the queue. */
  readonly #eventfds: readonly QueueEventfds[];
  readonly #memory: KernelMemory;
  readonly #started = new Map<number, StartedQueue>();
  #negotiated = NOTHING_NEGOTIATED;
  #epoch = 0;
  #isHandedOver = false;
  /** Whether the driver uses the pair: if not, no queue runs. */
  #isActive: boolean;
  /** Whether the kernel's file is closed, as it did not do what it must. */
  #isAbandoned = false;
  /** Present while queues wait for memory. */
  readonly #parked: Disposable[] = [];
  #isRemapAsked = false;
  #look: Disposable | undefined;

  constructor(parts: KernelPathParts) {
    this.#parts = parts;
    this.#memory = new KernelMemory(parts.kernel);
    this.#isActive = parts.pair === 0;
    using scope = new Scope();
    const eventfd = (name: string, i: number) => scope.own(Fd.eventfd(`vhost ${name} ${i}`));
    this.#eventfds = Array.from({ length: PAIR_QUEUES }, (_, i) => ({
      call: eventfd('call', i),
      err: eventfd('error', i),
    }));
    this.#scope = scope.move();
  }

  attach(table: DmaTableBuffer): void {
    this.#memory.attach(table);
  }

  /** Stops the queues, and detaches from guest memory. */
  detach(): void {
    this.stop();
    this.#memory.detach();
  }

  /** As {@link DataPath.start}. */
  start(
    queues: readonly QueueSetup[],
    negotiated: Negotiated,
    epoch: number,
    positions?: QueuePositions,
  ): void {
    if (!this.#memory.isAttached) return;
    if (this.#isHandedOver || this.#isAbandoned) {
      this.#isHandedOver = true;
      this.#parts.path.start(queues, negotiated, epoch, positions);
      return;
    }
    this.#negotiated = negotiated;
    this.#epoch = epoch;
    if (queues.some(({ index }) => isReceiveQueue(index)))
      this.#parts.path.prepare(negotiated, positions !== undefined);
    for (const setup of queues) {
      const position = positions?.get(setup.index) ?? 0;
      const eventfds = this.#eventfds[setup.index % PAIR_QUEUES] as QueueEventfds;
      this.#started.set(setup.index, new StartedQueue(this.#parts, eventfds, setup, position));
    }
    this.#run();
  }

  /**
   * Stops the kernel's queues: after this, it accesses no guest memory and raises no interrupt. Those of the data path are
   * stopped by its own `stop`.
   */
  stop(): void {
    try {
      this.#halt();
      if (!this.#memory.isEmpty) this.#memory.clear();
    } catch (error) {
      this.#close(error);
    }
    this.#started.clear();
    this.#isRemapAsked = false;
    this.#isHandedOver = false;
  }

  /**
   * As {@link stop}, until the queues are started where they were, and of the data path, too. Returns where that is: the kernel has returned
   * what it has taken.
   */
  pause(): QueuePositions {
    this.#guard(() => {
      this.#halt();
      if (!this.#memory.isEmpty) this.#memory.clear();
    });
    if (this.#isHandedOver) return this.#parts.path.pause();
    const queues = [...this.#started.values()];
    this.#started.clear();
    this.#isRemapAsked = false;
    for (const queue of queues) queue.passInterrupt();
    return new Map(queues.map((queue) => [queue.setup.index, this.#positionOf(queue)]));
  }

  /** The command register has changed: without bus mastering, no queue runs. */
  obeyCommand(): void {
    if (this.#isHandedOver || this.#started.size === 0) return;
    if (this.#mayRun) this.#run();
    else this.#guard(() => this.#halt());
  }

  /** As {@link DataPath.setActive}; the queues go on where they were. Call it while the port is active. */
  setActive(isActive: boolean): void {
    this.#isActive = isActive;
    this.obeyCommand();
  }

  /** The interrupts' eventfds or the queues' vectors have changed: when it returns, no other is signalled. */
  retarget(): void {
    this.#guard(() => {
      for (const queue of this.#started.values()) queue.retarget();
    });
  }

  /**
   * Logs the pages that the kernel writes, or does not any more. {@link gatherLog} passes them on.
   * @throws SysError of the kernel, or ENOMEM, after which it logs none; E2BIG if its memory reaches beyond what can be logged
   */
  log(written: WrittenPages | undefined): void {
    this.#endLog();
    if (written === undefined || this.#isAbandoned) return;
    try {
      this.#memory.startLog(written);
    } catch (error) {
      this.#endLog();
      throw error;
    }
  }

  #endLog(): void {
    if (!this.#isAbandoned) this.#guard(() => this.#memory.stopLog());
    this.#memory.dropLog();
  }

  /** Marks the pages of a range in the log that the kernel has written since the last call. */
  gatherLog(iova: number, bytes: number): void {
    this.#memory.gatherLog(iova, bytes);
  }

  /** A range is about to be unmapped: when it returns, the kernel does not access it. */
  unmap(iova: number, bytes: number): void {
    const range = { iova, bytes };
    if (!this.#memory.meets(range)) return;
    this.#guard(() => {
      if (this.#running.some((queue) => queue.hasRingIn(range))) this.#park();
      this.#memory.take(range);
    });
  }

  /** The maps may have more than the kernel was given. Called by the registers' thread, between maps and unmaps. */
  remap(): void {
    if (!this.#isRemapAsked) return;
    this.#isRemapAsked = false;
    if (this.#isHandedOver || !this.#isActive || this.#started.size === 0) return;
    this.#guard(() => {
      const isParked = this.#parked.length > 0;
      const hasOthers = this.#memory.follow();
      if (isParked) {
        this.#unpark();
        this.#run();
      } else if (!hasOthers) {
        this.#handOver('it has met memory that it cannot access, or a chain that it does not take');
      } else {
        // It tries its chain again at the next doorbell.
        for (const queue of this.#running) queue.kick();
      }
    });
  }

  get #mayRun(): boolean {
    return this.#isActive && (this.#parts.state.command & PCI_COMMAND_MASTER) !== 0;
  }

  get #running(): StartedQueue[] {
    return [...this.#started.values()].filter(({ isRunning }) => isRunning);
  }

  /** Runs all queues that are started, if it may. */
  #run(): void {
    if (!this.#mayRun || this.#parked.length > 0) return;
    const waiting = [...this.#started.values()].filter(({ isRunning }) => !isRunning);
    if (waiting.length === 0) return;
    this.#guard(() => {
      const { kernel, state } = this.#parts;
      if (this.#running.length === 0) {
        kernel.setFeatures(this.#accepted(waiting[0] as StartedQueue));
        this.#memory.follow();
      }
      for (const queue of waiting) {
        const rings = this.#memory.locate(queue.setup);
        if (rings === undefined) return this.#handOver('a ring is in memory that it cannot access');
        queue.run(rings, () => this.#askRemap());
        state.count('vhostQueues');
      }
      this.#look ??= this.#lookLater();
    });
  }

  #accepted({ setup }: StartedQueue): bigint {
    return (
      VIRTIO_F_VERSION_1 |
      (setup.hasIndirect ? VIRTIO_F_INDIRECT_DESC : 0n) |
      (setup.hasEventIdx ? VIRTIO_F_EVENT_IDX : 0n) |
      (this.#negotiated.hasMergeable ? VIRTIO_NET_F_MRG_RXBUF : 0n)
    );
  }

  /** Stops the queues that run, and remembers where. */
  #halt(): void {
    this.#look?.[Symbol.dispose]();
    this.#look = undefined;
    this.#unpark();
    for (const queue of this.#started.values()) queue.halt();
  }

  /** Stops the queues until their rings are mapped again, for which the next doorbell or frame has us look. */
  #park(): void {
    const { context, port } = this.#parts;
    this.#halt();
    for (const queue of this.#started.values())
      this.#parked.push(queue.watchDoorbell(() => this.#askRemap()));
    const frames = context.watch(port.fd, () => {
      frames[Symbol.dispose]();
      this.#askRemap();
    });
    this.#parked.push(frames);
  }

  #unpark(): void {
    for (const watch of this.#parked.splice(0)) watch[Symbol.dispose]();
  }

  #askRemap(): void {
    if (this.#isRemapAsked) return;
    this.#isRemapAsked = true;
    this.#notify({ kind: 'remap' });
  }

  #lookLater(): Disposable {
    return this.#parts.context.after(LOOK_MS, () => {
      this.#look = undefined;
      this.#guard(() => {
        // The data path meets the same error, and tells the guest.
        if (this.#parts.kernel.isPortGone) this.#handOver('the interface is gone');
        else this.#look = this.#lookLater();
      });
    });
  }

  /** What the kernel refuses, this process does. */
  #guard(act: () => void): void {
    try {
      act();
    } catch (error) {
      if (error instanceof BeyondKernel) this.#handOver(error.message);
      else this.#abandon(error);
    }
  }

  #abandon(error: unknown): void {
    const { call, code } = this.#close(error);
    this.#handOver(`${call}: ${code}`);
  }

  /** The kernel's side has not done what it must, so its state is unknown. Closing the file ends it in any state. */
  #close(error: unknown): SysError {
    if (!(error instanceof SysError)) throw error;
    this.#isAbandoned = true;
    this.#parts.kernel[Symbol.dispose]();
    for (const queue of this.#started.values()) queue.lose();
    this.#look?.[Symbol.dispose]();
    this.#look = undefined;
    this.#unpark();
    this.#memory.lose();
    return error;
  }

  /** Passes the queues to the data path of this thread, until the device is reset. */
  #handOver(why: string): void {
    try {
      this.#halt();
      if (!this.#isAbandoned) this.#memory.clear();
    } catch (error) {
      this.#abandon(error);
      return;
    }
    const queues = [...this.#started.values()];
    this.#started.clear();
    if (queues.length === 0) return;
    this.#isHandedOver = true;
    const positions = new Map(queues.map((queue) => [queue.setup.index, this.#positionOf(queue)]));
    const setups = queues.map(({ setup }) => setup);
    this.#notify({ kind: 'handedOver', why });
    this.#parts.path.start(setups, this.#negotiated, this.#epoch, positions);
  }

  /**
   * The first chain that the kernel has not returned. It may have taken one more, which it then found wrong, and does not
   * return: the data path takes that again. Chains are returned in order.
   */
  #positionOf({ setup, position }: StartedQueue): number {
    const used = this.#memory.usedIndexOf(setup);
    if (used === undefined) return position;
    return this.#isAbandoned || ((position - used) & 0xffff) <= setup.size ? used : position;
  }

  #notify(notice: QueueNotice): void {
    this.#parts.context.notify(notice);
  }

  [Symbol.dispose](): void {
    this.detach();
    this.#endLog();
    this.#scope[Symbol.dispose]();
  }
}

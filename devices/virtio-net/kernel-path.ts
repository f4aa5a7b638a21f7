import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventContext } from '../../sys/event-task.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { PROT_WRITE } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { type DmaTableBuffer, type DmaTableEntry, DmaTableReader } from '../../vfio/dma-table.js';
import type { WrittenPages } from '../../vfio/written-pages.js';
import type { KernelQueues, NetPort } from '../net/index.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from '../virtio/spec.js';
import type { DataPath } from './data-path.js';
import { KERNEL_LOG_END, KernelLog } from './kernel-log.js';
import { givenMaps, locateRings, overlaps, regionsOf, ringsOf } from './kernel-memory.js';
import type { QueueNotice, QueueTaskData } from './messages.js';
import { type Negotiated, NOTHING_NEGOTIATED } from './negotiated.js';
import { isReceiveQueue } from './queue-layout.js';
import type { SharedState } from './shared-state.js';
import { VIRTIO_NET_F_MRG_RXBUF } from './spec.js';

/** Features that whoever moves the frames has to have: the others are the registers'. */
export const QUEUE_FEATURES: bigint =
  VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_NET_F_MRG_RXBUF;

/** Queues of a pair, which are 0 and 1 to the kernel. */
const PAIR_QUEUES = 2;

const inKernel = (index: number): number => index % PAIR_QUEUES;

/** How often to look whether the port's interface is still there, which the kernel does not say. */
const LOOK_MS = 1000;

const BEYOND_LOG = `its memory reaches beyond ${KERNEL_LOG_END / 2 ** 40} TiB, where what it writes cannot be logged`;

const isBeyondLog = ({ iova, bytes }: { readonly iova: number; readonly bytes: number }): boolean =>
  iova + bytes > KERNEL_LOG_END;

/** Parts of a {@link KernelPath}. */
export interface KernelPathParts {
  readonly port: NetPort;
  /** Closed with the port. */
  readonly kernel: KernelQueues;
  /** The same port's data path in this thread, which takes over what the kernel cannot serve. */
  readonly path: DataPath;
  readonly state: SharedState;
  readonly signals: InterruptSignals;
  readonly context: EventContext;
  readonly doorbells: QueueTaskData['doorbells'];
  readonly pair: number;
}

/** A queue that the driver has started. */
interface Started {
  readonly setup: QueueSetup;
  /** Index of the next chain, while the kernel does not run it. */
  position: number;
  isRunning: boolean;
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
  /** Interrupts of queues without an MSI-X eventfd of their own: those of INTx, or of a vector that is masked. */
  readonly #calls: readonly Fd[];
  readonly #errs: readonly Fd[];
  readonly #started = new Map<number, Started>();
  #table: DmaTableBuffer | undefined;
  #reader: DmaTableReader | undefined;
  /** Of these, the kernel's regions are made. */
  #maps: readonly DmaTableEntry[] = [];
  #negotiated = NOTHING_NEGOTIATED;
  #epoch = 0;
  #isHandedOver = false;
  /** Whether the driver uses the pair: if not, no queue runs. */
  #isActive: boolean;
  /** Present while the device logs what it writes; also of a kernel that does nothing now, but has. */
  #log: { readonly marks: KernelLog; readonly written: WrittenPages } | undefined;
  /** Whether the kernel's file is closed, as it did not do what it must. */
  #isAbandoned = false;
  /** Present while a queue is in the kernel. */
  readonly #watches: Disposable[] = [];
  /** Present while queues wait for memory. */
  readonly #parked: Disposable[] = [];
  #isRemapAsked = false;
  #look: Disposable | undefined;

  constructor(parts: KernelPathParts) {
    this.#parts = parts;
    this.#isActive = parts.pair === 0;
    using scope = new Scope();
    const eventfds = (name: string) =>
      Array.from({ length: PAIR_QUEUES }, (_, i) => scope.own(Fd.eventfd(`vhost ${name} ${i}`)));
    this.#calls = eventfds('call');
    this.#errs = eventfds('error');
    this.#scope = scope.move();
  }

  attach(table: DmaTableBuffer): void {
    this.#table = table;
    this.#reader = new DmaTableReader(table);
  }

  /** Stops the queues, and detaches from guest memory. */
  detach(): void {
    this.stop();
    this.#table = undefined;
    this.#reader = undefined;
  }

  /** As {@link DataPath.start}. */
  start(
    queues: readonly QueueSetup[],
    negotiated: Negotiated,
    epoch: number,
    positions?: QueuePositions,
  ): void {
    if (this.#table === undefined) return;
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
      this.#started.set(setup.index, { setup, position, isRunning: false });
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
      if (this.#maps.length > 0) this.#give([]);
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
      if (this.#maps.length > 0) this.#give([]);
    });
    if (this.#isHandedOver) return this.#parts.path.pause();
    const queues = [...this.#started.values()];
    this.#started.clear();
    this.#isRemapAsked = false;
    // Interrupts that the kernel has left with us, and that nobody has heard yet.
    for (const { setup } of queues)
      if (drainEventfd((this.#calls[inKernel(setup.index)] as Fd).number) > 0n)
        this.#parts.signals.queue(setup.index);
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
      for (const { setup, isRunning } of this.#started.values())
        if (isRunning) this.#parts.kernel.setCall(inKernel(setup.index), this.#callOf(setup.index));
    });
  }

  /**
   * Logs the pages that the kernel writes, or does not any more. {@link gatherLog} passes them on.
   * @throws SysError of the kernel, or ENOMEM, after which it logs none; E2BIG if its memory reaches beyond what can be logged
   */
  log(written: WrittenPages | undefined): void {
    this.#endLog();
    const { kernel } = this.#parts;
    if (written === undefined || kernel.setLog === undefined || this.#isAbandoned) return;
    if (this.#maps.some(isBeyondLog)) {
      const call = 'VFIO_DEVICE_FEATURE_DMA_LOGGING_START';
      throw new SysError({ call, target: 'vhost-net', errno: errno.E2BIG, hint: BEYOND_LOG });
    }
    this.#log = { marks: new KernelLog(), written };
    try {
      kernel.setLog(this.#log.marks.address);
    } catch (error) {
      this.#endLog();
      throw error;
    }
  }

  #endLog(): void {
    if (this.#log === undefined) return;
    if (!this.#isAbandoned) this.#guard(() => this.#parts.kernel.setLog?.(0));
    // The kernel marks no more: it has said so, or its file is closed.
    this.#log.marks[Symbol.dispose]();
    this.#log = undefined;
  }

  /** Marks the pages of a range in the log that the kernel has written since the last call. */
  gatherLog(iova: number, bytes: number): void {
    this.#log?.marks.moveTo(this.#log.written, iova, bytes);
  }

  /** A range is about to be unmapped: when it returns, the kernel does not access it. */
  unmap(iova: number, bytes: number): void {
    const range = { iova, bytes };
    if (!this.#maps.some((map) => overlaps(map, range))) return;
    const rest = this.#maps.filter((map) => !overlaps(map, range));
    this.#guard(() => {
      const losesRings = this.#running.some(({ setup }) =>
        ringsOf(setup).some((ring) => overlaps(ring, range)),
      );
      if (losesRings) this.#park();
      this.#give(rest);
    });
  }

  /** The maps may have more than the kernel was given. Called by the registers' thread, between maps and unmaps. */
  remap(): void {
    if (!this.#isRemapAsked) return;
    this.#isRemapAsked = false;
    if (this.#isHandedOver || !this.#isActive || this.#started.size === 0) return;
    this.#guard(() => {
      const before = JSON.stringify(this.#maps);
      const isParked = this.#parked.length > 0;
      this.#readMaps();
      if (isParked) {
        this.#unpark();
        this.#run();
      } else if (JSON.stringify(this.#maps) === before) {
        this.#handOver('it has met memory that it cannot access, or a chain that it does not take');
      } else {
        // It tries its chain again at the next doorbell.
        for (const { setup } of this.#running) this.#kick(setup.index);
      }
    });
  }

  get #mayRun(): boolean {
    return this.#isActive && (this.#parts.state.command & PCI_COMMAND_MASTER) !== 0;
  }

  get #running(): Started[] {
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
        kernel.setFeatures(this.#accepted(waiting[0] as Started));
        this.#readMaps();
      }
      const regions = regionsOf(this.#maps);
      for (const queue of waiting) {
        const { index, size } = queue.setup;
        const rings = locateRings(queue.setup, regions);
        if (rings === undefined) return this.#handOver('a ring is in memory that it cannot access');
        this.#watch(index);
        const position = queue.position;
        const [kick, err] = [this.#doorbell(index), this.#err(index)];
        kernel.start({
          index: inKernel(index),
          size,
          ...rings,
          usedIova: queue.setup.device,
          position,
          kick,
          call: this.#callOf(index),
          err,
        });
        queue.isRunning = true;
        state.count('vhostQueues');
        // Chains may wait since a doorbell that nobody heard.
        this.#kick(index);
      }
      this.#look ??= this.#lookLater();
    });
  }

  #accepted({ setup }: Started): bigint {
    return (
      VIRTIO_F_VERSION_1 |
      (setup.hasIndirect ? VIRTIO_F_INDIRECT_DESC : 0n) |
      (setup.hasEventIdx ? VIRTIO_F_EVENT_IDX : 0n) |
      (this.#negotiated.hasMergeable ? VIRTIO_NET_F_MRG_RXBUF : 0n)
    );
  }

  #doorbell(index: number): number {
    return this.#parts.doorbells[index] as number;
  }

  #err(index: number): number {
    return (this.#errs[inKernel(index)] as Fd).number;
  }

  /** The queue's MSI-X eventfd, which the kernel signals without us; ours, if there is none. */
  #callOf(index: number): number {
    const direct = this.#parts.signals.direct(index);
    return direct < 0 ? (this.#calls[inKernel(index)] as Fd).number : direct;
  }

  #kick(index: number): void {
    signalEventfd(this.#doorbell(index));
  }

  #watch(index: number): void {
    const { context, signals } = this.#parts;
    const [call, err] = [this.#calls[inKernel(index)] as Fd, this.#errs[inKernel(index)] as Fd];
    drainEventfd(call.number);
    drainEventfd(err.number);
    this.#watches.push(
      context.watch(call.number, () => signals.queue(index), true),
      context.watch(err.number, () => this.#askRemap(), true),
    );
  }

  /** Reads the device's maps, and gives them to the kernel. */
  #readMaps(): void {
    const reader = this.#reader as DmaTableReader;
    let maps: DmaTableEntry[];
    reader.enter();
    try {
      maps = reader.entries();
    } finally {
      reader.leave();
    }
    this.#give(givenMaps(maps));
  }

  #give(maps: readonly DmaTableEntry[]): void {
    const regions = regionsOf(maps);
    const { kernel } = this.#parts;
    if (regions.length > kernel.mostRegions)
      throw new BeyondKernel(
        `its memory is in ${regions.length} pieces, and it takes ${kernel.mostRegions} ` +
          '(max_mem_regions of the module vhost)',
      );
    if (this.#log !== undefined && regions.some(isBeyondLog)) throw new BeyondKernel(BEYOND_LOG);
    kernel.setMemory(regions);
    this.#maps = maps;
  }

  /** Stops the queues that run, and remembers where. */
  #halt(): void {
    this.#look?.[Symbol.dispose]();
    this.#look = undefined;
    this.#unpark();
    for (const queue of this.#running) {
      queue.position = this.#parts.kernel.stop(inKernel(queue.setup.index));
      queue.isRunning = false;
    }
    this.#unwatch();
  }

  #unwatch(): void {
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
  }

  /** Stops the queues until their rings are mapped again, for which the next doorbell or frame has us look. */
  #park(): void {
    const { context, port } = this.#parts;
    this.#halt();
    for (const { setup } of this.#started.values()) {
      const doorbell = this.#doorbell(setup.index);
      drainEventfd(doorbell); // those that the kernel has heard
      this.#parked.push(context.watch(doorbell, () => this.#askRemap(), true));
    }
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
    for (const queue of this.#started.values()) queue.isRunning = false;
    this.#look?.[Symbol.dispose]();
    this.#look = undefined;
    this.#unpark();
    this.#unwatch();
    this.#maps = [];
    return error;
  }

  /** Passes the queues to the data path of this thread, until the device is reset. */
  #handOver(why: string): void {
    try {
      this.#halt();
      if (!this.#isAbandoned) this.#parts.kernel.setMemory([]);
      this.#maps = [];
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
  #positionOf({ setup, position }: Started): number {
    const reader = this.#reader as DmaTableReader;
    reader.enter();
    try {
      const [, , { iova, bytes }] = ringsOf(setup);
      const used =
        iova + bytes <= Number.MAX_SAFE_INTEGER ? reader.slice(iova, bytes, PROT_WRITE) : undefined;
      if (used === undefined || used.byteOffset % 2 !== 0) return position;
      const index = Atomics.load(new Uint16Array(used.buffer, used.byteOffset, 2), 1);
      return this.#isAbandoned || ((position - index) & 0xffff) <= setup.size ? index : position;
    } finally {
      reader.leave();
    }
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

/** Memory that the kernel cannot be given. */
class BeyondKernel extends Error {}

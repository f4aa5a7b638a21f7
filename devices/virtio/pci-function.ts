import { iova } from '../../sys/address.js';
import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { trace } from '../../sys/trace.js';
import type { DeviceDma, OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import type { IrqInfo, IrqSet } from '../../vfio/uapi.js';
import type { WrittenPagesData } from '../../vfio/written-pages.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import type { PciRegions, TypedRegion } from '../mdev/pci-regions.js';
import type { Registers } from '../mdev/region-access.js';
import { RegionOps } from '../mdev/region-ops.js';
import { StopCopyMigration } from '../mdev/stop-copy-migration.js';
import { PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import { CommonConfig, type DeviceFeatures } from './common-config.js';
import { REGISTER_BAR, VirtioConfigSpace, type VirtioIdentity } from './config-space.js';
import { VirtioDmaLog } from './dma-log.js';
import type { FunctionCommand, PausedQueues, QueuePositions } from './messages.js';
import type { QueueSetup } from './queue-setup.js';
import { virtioRegions } from './registers.js';
import type { RemoteAccess } from './remote-queue.js';
import { functionState, type TypeState } from './saved-state.js';
import type { TransportState } from './transport-state.js';

const NOTHING_PAUSED: PausedQueues = { positions: new Map(), pending: [] };

/** Parts of a function, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioFunctionParts<State> {
  /** The type's, which begins its messages. */
  readonly name: string;
  readonly identity: VirtioIdentity;
  readonly features: DeviceFeatures;
  readonly state: State;
  /** The queue task. */
  readonly task: EventTask;
  /** One eventfd per queue. */
  readonly doorbells: readonly Fd[];
  /** Device configuration structure. */
  readonly config: Registers;
  /** Device-specific regions; none if absent. */
  readonly typed?: readonly TypedRegion[];
}

/**
 * The registers of a virtio PCI function, with vfio-pci's rules: what all types have. A type adds its queues' commands, and what
 * it hears of them. Machine thread only.
 */
export abstract class VirtioFunction<State extends TransportState, Command>
  extends RegionOps
  implements VfioDeviceOps
{
  readonly name: string;
  readonly migration: StopCopyMigration;
  readonly #log: VirtioDmaLog;
  protected readonly regions: PciRegions;
  /** What the type saves. */
  protected abstract readonly typeState: TypeState;
  protected readonly state: State;
  protected readonly common: CommonConfig;
  readonly #task: EventTask;
  readonly #doorbells: readonly Fd[];
  readonly #interrupts: DeviceInterrupts;
  /** The way to memory of another process, for the queues in it. */
  protected readonly remoteMemory: { readonly access: RemoteAccess; readonly isMaster: () => boolean } = {
    access: (at, data, isWrite) => {
      this.#dma?.rw(iova(BigInt(at)), data, isWrite);
      if (isWrite) this.#log.add(at, data.length);
    },
    isMaster: () => (this.state.command & PCI_COMMAND_MASTER) !== 0,
  };
  #dma: DeviceDma | undefined;
  /** Present while the device is stopped: where its queues go on. */
  #paused: PausedQueues | undefined;
  /** Whether this opener has been told that its memory is accessed by message. */
  #hasToldRemote = false;

  constructor(parts: VirtioFunctionParts<State>) {
    const { name, identity, features, state, task, doorbells, config, typed } = parts;
    super();
    this.name = name;
    this.state = state;
    this.#task = task;
    this.#doorbells = doorbells;
    this.common = new CommonConfig(
      features,
      state,
      {
        start: (queues) => this.#startQueues(queues),
        stop: () => this.#stopQueues(),
        revector: () => this.revectorQueues(),
      },
      (what) => this.misuse(what),
    );
    this.#interrupts = new DeviceInterrupts(
      name,
      { msix: state.vectorCount },
      {
        retarget: (targets) => this.call({ kind: 'interrupts', targets }),
        maskIntx: (isMasked) => this.call({ kind: 'maskIntx', isMasked }),
        isIntxDisabled: () => (this.regions.command & PCI_COMMAND_INTX_DISABLE) !== 0,
      },
    );
    this.#log = new VirtioDmaLog(name, {
      table: () => this.#dma?.table,
      send: (log) => this.sendLog(log),
      gather: (from, length) => this.gatherLog(from, length),
    });
    this.migration = new StopCopyMigration(
      name,
      functionState(
        {
          ...{ common: this.common, state },
          type: () => this.typeState,
          paused: () => this.#paused ?? NOTHING_PAUSED,
          setPaused: (paused) => {
            this.#paused = paused;
          },
        },
        { stop: () => this.#pause(), start: () => this.#goOn() },
      ),
    );
    this.regions = virtioRegions({
      name,
      config: this.#createConfigSpace(identity),
      state,
      common: this.common,
      device: config,
      doorbells,
      ...(typed === undefined ? {} : { typed }),
      ring: (queue) => this.#ring(queue),
    });
  }

  /** Absent if something else writes to guest memory, which it cannot log. */
  get dmaLogging(): VirtioDmaLog | undefined {
    return this.#log;
  }

  /** @param positions where the queues go on; absent if a driver has just set them up */
  protected abstract startQueues(queues: readonly QueueSetup[], positions?: QueuePositions): void;

  /** Stops the queues for a while: what has begun is done, and nothing interrupts until {@link resumeInterrupts}. */
  protected abstract pauseQueues(): PausedQueues;

  protected resumeInterrupts(pending: readonly number[]): void {
    this.call({ kind: 'resume', pending });
  }

  protected stopQueues(): void {
    this.call({ kind: 'stop' });
  }

  /** @throws SysError if one refuses to log */
  protected sendLog(log: WrittenPagesData | undefined): void {
    this.call({ kind: 'log', log });
  }

  /** Has what others than the queue tasks have logged marked in the log. */
  protected gatherLog(_iova: bigint, _length: bigint): void {}

  /** A started queue has another vector in the shared state. */
  protected revectorQueues(): void {}

  /** What a driver sets up while the device is stopped begins when it goes on. */
  #startQueues(queues: readonly QueueSetup[]): void {
    if (this.#paused === undefined) {
      this.startQueues(queues);
      return;
    }
    const positions = new Map(this.#paused.positions);
    for (const { index } of queues) positions.set(index, 0);
    this.#paused = { ...this.#paused, positions };
  }

  #stopQueues(): void {
    if (this.#paused !== undefined) this.#paused = NOTHING_PAUSED;
    this.stopQueues();
  }

  #pause(): void {
    this.#paused ??= this.pauseQueues();
  }

  #goOn(): void {
    const { positions, pending } = this.#paused ?? NOTHING_PAUSED;
    this.#paused = undefined;
    const queues = this.common.setups.filter(({ index }) => positions.has(index));
    if (queues.length > 0) this.startQueues(queues, positions);
    this.resumeInterrupts(pending);
  }

  openDevice({ dma }: OpenDevice): void {
    this.#dma = dma;
    this.#hasToldRemote = false;
    this.regions.resetConfig();
    this.state.command = this.regions.command;
    this.call({ kind: 'attach', table: dma.table });
    this.common.reset();
  }

  closeDevice(): void {
    this.common.reset();
    this.migration.reset();
    this.#log.stop();
    this.#interrupts[Symbol.dispose]();
    this.call({ kind: 'detach' });
    this.#dma = undefined;
  }

  getIrqInfo(index: number): IrqInfo {
    return irqInfo(index, { msix: this.state.vectorCount });
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  /** Resets the virtio device. Configuration space and eventfds remain, because vfio-pci restores them. */
  override reset(): void {
    this.common.reset();
    this.migration.reset();
  }

  request(): void {
    this.#interrupts.request();
  }

  #createConfigSpace(identity: VirtioIdentity): VirtioConfigSpace {
    return new VirtioConfigSpace(identity, this.state.vectorCount, {
      isMsixEnabled: () => this.#interrupts.isMsixEnabled,
      isIntxPending: () => !this.#interrupts.isMsixEnabled && this.state.isr !== 0,
      accessRegisters: (offset, data, isWrite) => this.regions.accessBar(REGISTER_BAR, offset, data, isWrite),
      followCommand: () => this.#followCommand(),
      reportMisuse: (what) => this.misuse(what),
    });
  }

  /** Bus mastering and INTx disable take effect before the write returns. */
  #followCommand(): void {
    const { command } = this.regions;
    if (command === this.state.command) return;
    this.state.command = command;
    this.call({ kind: 'command' });
  }

  #ring(queue: number): void {
    const doorbell = this.#doorbells[queue];
    if (doorbell !== undefined) signalEventfd(doorbell.number);
    else this.misuse(`doorbell of queue ${queue}`);
  }

  /** To the queue task, or to each of them. It has taken effect when it returns. */
  protected call(command: FunctionCommand | Command): void {
    this.#task.call(command);
  }

  /** Tells the embedder. */
  protected tell(what: string, text: string): void {
    if (trace.vfio.hasSubscribers)
      trace.vfio.publish({ what, device: this.name, text: `${this.name}: ${text}` });
  }

  /** Tells the embedder, once for each opener, that queues are served by message. */
  protected tellRemote(text: string): void {
    if (!this.#hasToldRemote) this.tell('remote memory', text);
    this.#hasToldRemote = true;
  }

  /** The guest violated the specification. */
  protected misuse(text: string): void {
    if (trace.guestMisuse.hasSubscribers)
      trace.guestMisuse.publish({ device: this.name, what: 'virtio', text });
  }
}

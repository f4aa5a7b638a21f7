import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { trace } from '../../sys/trace.js';
import type { OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import type { IrqInfo, IrqSet } from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import type { PciRegions } from '../mdev/pci-regions.js';
import { RegionOps } from '../mdev/region-ops.js';
import { PCI_COMMAND_INTX_DISABLE } from '../pci/pci-regs.js';
import { CommonConfig } from '../virtio/common-config.js';
import { REGISTER_BAR, VirtioConfigSpace, type VirtioIdentity } from '../virtio/config-space.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { virtioRegions } from '../virtio/registers.js';
import type { TransportStateBuffer } from '../virtio/transport-state.js';
import { BlkConfig, featuresOf } from './blk-config.js';
import type { DiskCommand, DiskNotice, DiskShape } from './messages.js';
import { SharedState } from './shared-state.js';
import { MSIX_VECTORS, VIRTIO_BLK_F_FLUSH } from './spec.js';

const PCI_CLASS_STORAGE_SCSI = 0x0100;
const IDENTITY: VirtioIdentity = { type: 2, pciClass: PCI_CLASS_STORAGE_SCSI, vectors: MSIX_VECTORS };

const REMOTE =
  'its queue has stopped until a reset: it is in memory that the other process does not share, which a disk needs ' +
  '(QEMU: -object memory-backend-memfd,share=on)';

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioBlkParts {
  readonly shared: TransportStateBuffer;
  /** The queue task, whose image is open. */
  readonly task: EventTask;
  /** The queue's. */
  readonly doorbell: Fd;
  readonly disk: DiskShape;
}

/** The registers of a virtio-blk PCI function, with vfio-pci's rules. Machine thread only. */
export class VirtioBlkDevice extends RegionOps implements VfioDeviceOps {
  readonly name = 'virtio-blk';
  protected readonly regions: PciRegions;
  readonly #state: SharedState;
  readonly #task: EventTask;
  readonly #doorbell: Fd;
  readonly #common: CommonConfig;
  readonly #interrupts: DeviceInterrupts;

  constructor({ shared, task, doorbell, disk }: VirtioBlkParts) {
    super();
    this.#state = new SharedState(shared);
    this.#task = task;
    this.#doorbell = doorbell;
    this.#common = new CommonConfig(
      { offered: featuresOf(disk), requirements: [] },
      this.#state,
      { start: (queues) => this.#start(queues), stop: () => void this.#call({ kind: 'stop' }) },
      (what) => this.#misuse(what),
    );
    this.#interrupts = new DeviceInterrupts(this.name, MSIX_VECTORS, {
      retarget: (targets) => this.#call({ kind: 'interrupts', targets }),
      maskIntx: (isMasked) => this.#call({ kind: 'maskIntx', isMasked }),
      isIntxDisabled: () => (this.regions.command & PCI_COMMAND_INTX_DISABLE) !== 0,
    });
    this.regions = virtioRegions({
      name: this.name,
      config: this.#createConfig(),
      state: this.#state,
      common: this.#common,
      device: new BlkConfig(disk),
      doorbells: [doorbell],
      ring: (queue) => this.#ring(queue),
    });
    task.receive = (message) => this.#hear(message as DiskNotice);
  }

  openDevice({ dma }: OpenDevice): void {
    this.regions.resetConfig();
    this.#state.command = this.regions.command;
    this.#call({ kind: 'attach', table: dma.table });
    this.#common.reset();
  }

  closeDevice(): void {
    this.#common.reset();
    this.#interrupts[Symbol.dispose]();
    this.#call({ kind: 'detach' });
  }

  getIrqInfo(index: number): IrqInfo {
    return irqInfo(index, MSIX_VECTORS);
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  /** Resets the virtio device. Configuration space and eventfds remain, because vfio-pci restores them. */
  override reset(): void {
    this.#common.reset();
  }

  request(): void {
    this.#interrupts.request();
  }

  #createConfig(): VirtioConfigSpace {
    return new VirtioConfigSpace(IDENTITY, {
      isMsixEnabled: () => this.#interrupts.isMsixEnabled,
      isIntxPending: () => !this.#interrupts.isMsixEnabled && this.#state.isr !== 0,
      accessRegisters: (offset, data, isWrite) => this.regions.accessBar(REGISTER_BAR, offset, data, isWrite),
      followCommand: () => this.#followCommand(),
      reportMisuse: (what) => this.#misuse(what),
    });
  }

  /** Bus mastering and INTx disable take effect before the write returns. */
  #followCommand(): void {
    const { command } = this.regions;
    if (command === this.#state.command) return;
    this.#state.command = command;
    this.#call({ kind: 'command' });
  }

  #ring(queue: number): void {
    if (queue === 0) signalEventfd(this.#doorbell.number);
    else this.#misuse(`doorbell of queue ${queue}`);
  }

  #start(queues: readonly QueueSetup[]): void {
    const hasFlush = (this.#common.features & VIRTIO_BLK_F_FLUSH) !== 0n;
    for (const queue of queues) this.#call({ kind: 'start', queue, hasFlush });
  }

  #call(command: DiskCommand): unknown {
    return this.#task.call(command);
  }

  #hear(notice: DiskNotice): void {
    switch (notice.kind) {
      case 'misuse':
        this.#misuse(`queue 0: ${notice.what}`);
        break;
      case 'remote':
        this.#tell('remote memory', REMOTE);
        break;
      case 'ioError':
        this.#tell('I/O error', `the guest gets an I/O error: ${notice.error}`);
    }
  }

  #tell(what: string, text: string): void {
    if (trace.vfio.hasSubscribers)
      trace.vfio.publish({ what, device: this.name, text: `${this.name}: ${text}` });
  }

  #misuse(text: string): void {
    if (trace.guestMisuse.hasSubscribers)
      trace.guestMisuse.publish({ device: this.name, what: 'virtio', text });
  }
}

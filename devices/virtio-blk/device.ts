import type { EventTask } from '../../sys/event-task.js';
import type { Fd } from '../../sys/fd.js';
import type { VirtioIdentity } from '../virtio/config-space.js';
import type { PausedQueues, QueuePositions } from '../virtio/messages.js';
import { VirtioFunction } from '../virtio/pci-function.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import type { TypeState } from '../virtio/saved-state.js';
import type { TransportStateBuffer } from '../virtio/transport-state.js';
import { BlkConfig, featuresOf } from './blk-config.js';
import type { DiskCommand, DiskNotice, DiskShape } from './messages.js';
import { RemotePath } from './remote-path.js';
import { checkDisk, saveDisk } from './saved-state.js';
import { SharedState } from './shared-state.js';
import { REQUESTQ, VIRTIO_BLK_F_FLUSH } from './spec.js';

const PCI_CLASS_STORAGE_SCSI = 0x0100;
const IDENTITY: VirtioIdentity = { type: 2, pciClass: PCI_CLASS_STORAGE_SCSI };

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioBlkParts {
  readonly shared: TransportStateBuffer;
  /** The queue task, whose image is open. */
  readonly task: EventTask;
  /** The queue's. */
  readonly doorbell: Fd;
  readonly disk: DiskShape;
}

/** The registers of a virtio-blk PCI function. Machine thread only. */
export class VirtioBlkDevice extends VirtioFunction<SharedState, DiskCommand> {
  readonly #remote: RemotePath;
  readonly #disk: DiskShape;
  readonly #task: EventTask;

  constructor({ shared, task, doorbell, disk }: VirtioBlkParts) {
    super({
      name: 'virtio-blk',
      identity: IDENTITY,
      features: { offered: featuresOf(disk), requirements: [] },
      state: new SharedState(shared),
      task,
      doorbells: [doorbell],
      config: new BlkConfig(disk),
    });
    this.#disk = disk;
    this.#task = task;
    this.#remote = new RemotePath({
      ...this.remoteMemory,
      call: (command) => task.call(command),
      report: (cause) => {
        if ('misuse' in cause) this.misuse(`queue 0: ${cause.misuse}`);
        else this.tell('queue stopped', `its queue has stopped until a reset: ${cause.error.message}`);
      },
    });
    task.receive = (message) => this.#hear(message as DiskNotice);
  }

  protected override get typeState(): TypeState {
    return {
      name: 'vblk',
      description: `a disk of ${this.#disk.bytes} bytes`,
      save: (out) => saveDisk(out, this.#disk),
      read: (reader) => {
        checkDisk(reader, this.#disk);
        return () => false;
      },
    };
  }

  protected override startQueues(queues: readonly QueueSetup[], positions?: QueuePositions): void {
    const hasFlush = (this.common.features & VIRTIO_BLK_F_FLUSH) !== 0n;
    for (const queue of queues) {
      this.#remote.start(queue);
      const position = positions?.get(queue.index) ?? 0;
      this.call({ kind: 'start', queue, hasFlush, epoch: this.#remote.epoch, position });
    }
  }

  protected override pauseQueues(): PausedQueues {
    this.#task.call({ kind: 'drain' } satisfies DiskCommand);
    const remote = this.#remote.finish();
    const paused = this.#task.call({ kind: 'pause' } satisfies DiskCommand) as PausedQueues;
    this.#remote.stop();
    if (remote === undefined) return paused;
    return { ...paused, positions: new Map([[REQUESTQ, remote]]) };
  }

  protected override stopQueues(): void {
    super.stopQueues();
    this.#remote.stop();
  }

  #hear(notice: DiskNotice): void {
    switch (notice.kind) {
      case 'misuse':
        this.misuse(`queue 0: ${notice.what}`);
        break;
      case 'remote':
        if (!this.#remote.add(notice.position, notice.epoch)) break;
        this.tellRemote('its queue uses memory that is not shared, so it is served by message');
        break;
      case 'turn':
        this.#remote.turn();
        break;
      case 'ioError':
        this.tell('I/O error', `the guest gets an I/O error: ${notice.error}`);
    }
  }
}

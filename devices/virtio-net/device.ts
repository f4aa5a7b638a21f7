import { type Iova, iova } from '../../sys/address.js';
import type { EventTask } from '../../sys/event-task.js';
import type { Fd } from '../../sys/fd.js';
import type { DeviceDma, OpenDevice } from '../../vfio/driver.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { VirtioIdentity } from '../virtio/config-space.js';
import { VirtioFunction } from '../virtio/pci-function.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import type { TransportStateBuffer } from '../virtio/transport-state.js';
import type { QueueCommand, QueueNotice, RemoteNotice } from './messages.js';
import { FEATURE_REQUIREMENTS, negotiated, offloadFeatures } from './negotiated.js';
import { BASE_FEATURES, NetConfig } from './net-config.js';
import { RemotePath } from './remote-path.js';
import { SharedState } from './shared-state.js';

const PCI_CLASS_NETWORK_ETHERNET = 0x0200;
const IDENTITY: VirtioIdentity = { type: 1, pciClass: PCI_CLASS_NETWORK_ETHERNET };

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioNetParts {
  readonly shared: TransportStateBuffer;
  /** The queue task, whose port is open. */
  readonly task: EventTask;
  /** One eventfd per queue. */
  readonly doorbells: readonly Fd[];
  /** 6 bytes. */
  readonly mac: Uint8Array;
  readonly mtu: number;
  /** Longest frame either way, in bytes, Ethernet header included. */
  readonly maxFrame: number;
  /** The offloads to offer, of those that the port has (`TUN_F_` bits). */
  readonly offloads: number;
  /** Features that the port does not have. */
  readonly lacking: bigint;
  /** Whether the kernel moves the frames. */
  readonly hasKernelPath: boolean;
}

/** The registers of a virtio-net PCI function. Machine thread only. */
export class VirtioNetDevice extends VirtioFunction<SharedState, QueueCommand> {
  readonly #remote: RemotePath;
  readonly #hasKernelPath: boolean;
  #dma: DeviceDma | undefined;
  /** Whether this opener has been told that its memory is accessed by message. */
  #hasTold = false;

  constructor({ shared, task, doorbells, mac, mtu, maxFrame, ...port }: VirtioNetParts) {
    const state = new SharedState(shared);
    super({
      name: 'virtio-net',
      identity: IDENTITY,
      features: {
        offered: (BASE_FEATURES & ~port.lacking) | offloadFeatures(port.offloads),
        requirements: FEATURE_REQUIREMENTS,
      },
      state,
      task,
      doorbells,
      config: new NetConfig(mac, mtu, state),
    });
    this.#hasKernelPath = port.hasKernelPath;
    this.#remote = new RemotePath({
      maxFrame,
      access: (at, data, isWrite) => this.#dma?.rw(iova(BigInt(at)), data, isWrite),
      call: (command) => this.call(command),
      isMaster: () => (state.command & PCI_COMMAND_MASTER) !== 0,
      report: (queue, cause) => {
        if ('misuse' in cause) this.misuse(`queue ${queue}: ${cause.misuse}`);
        else this.tell('queue stopped', `queue ${queue} has stopped until a reset: ${cause.error.message}`);
      },
    });
    task.receive = (message) => this.#hear(message as QueueNotice);
  }

  override openDevice(open: OpenDevice): void {
    this.#dma = open.dma;
    this.#hasTold = false;
    super.openDevice(open);
  }

  override closeDevice(): void {
    super.closeDevice();
    this.#dma = undefined;
  }

  /** The kernel does not see the table of maps, so it is told. */
  dmaUnmap(at: Iova, bytes: bigint): void {
    this.#callKernelPath({ kind: 'unmap', iova: Number(at), bytes: Number(bytes) });
  }

  protected override startQueues(queues: readonly QueueSetup[]): void {
    const accepted = negotiated(this.common.features);
    this.#remote.start(queues, accepted);
    this.call({ kind: 'start', queues, negotiated: accepted, epoch: this.#remote.epoch });
  }

  protected override stopQueues(): void {
    super.stopQueues();
    this.#remote.stop();
  }

  protected override revectorQueues(): void {
    this.#callKernelPath({ kind: 'vectors' });
  }

  #callKernelPath(command: QueueCommand): void {
    if (this.#hasKernelPath) this.call(command);
  }

  #hear(notice: QueueNotice): void {
    switch (notice.kind) {
      case 'misuse':
        this.misuse(`queue ${notice.queue}: ${notice.what}`);
        break;
      case 'remote':
        this.#serveRemote(notice);
        break;
      case 'turn':
        this.#remote.turn();
        break;
      case 'remap':
        this.call({ kind: 'remap' });
        break;
      case 'handedOver':
        this.tell(
          'packet path',
          `until it is reset, this process moves its packets in place of vhost-net: ${notice.why}`,
        );
        break;
      case 'linkDown':
        this.tell('link down', `its link is down: ${notice.error}`);
    }
  }

  #serveRemote({ queue, position, epoch }: RemoteNotice): void {
    if (!this.#remote.add(queue, position, epoch)) return;
    if (!this.#hasTold) {
      this.tell('remote memory', 'its queues use memory that is not shared, so they are served by message');
    }
    this.#hasTold = true;
  }
}

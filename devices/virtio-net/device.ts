import { type Iova, iova } from '../../sys/address.js';
import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { trace } from '../../sys/trace.js';
import type { DeviceDma, OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import type { IrqInfo, IrqSet } from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import type { PciRegions } from '../mdev/pci-regions.js';
import { RegionOps } from '../mdev/region-ops.js';
import { PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import { CommonConfig } from '../virtio/common-config.js';
import { REGISTER_BAR, VirtioConfigSpace, type VirtioIdentity } from '../virtio/config-space.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { virtioRegions } from '../virtio/registers.js';
import type { QueueCommand, QueueNotice, RemoteNotice } from './messages.js';
import { FEATURE_REQUIREMENTS, negotiated, offloadFeatures } from './negotiated.js';
import { BASE_FEATURES, NetConfig } from './net-config.js';
import { RemotePath } from './remote-path.js';
import { SharedState, type SharedStateBuffer } from './shared-state.js';
import { MSIX_VECTORS } from './spec.js';

const PCI_CLASS_NETWORK_ETHERNET = 0x0200;
const IDENTITY: VirtioIdentity = { type: 1, pciClass: PCI_CLASS_NETWORK_ETHERNET, vectors: MSIX_VECTORS };

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioNetParts {
  readonly shared: SharedStateBuffer;
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

/** The registers of a virtio-net PCI function, with vfio-pci's rules. Machine thread only. */
export class VirtioNetDevice extends RegionOps implements VfioDeviceOps {
  readonly name = 'virtio-net';
  protected readonly regions: PciRegions;
  readonly #state: SharedState;
  readonly #task: EventTask;
  readonly #doorbells: readonly Fd[];
  readonly #common: CommonConfig;
  readonly #net: NetConfig;
  readonly #interrupts: DeviceInterrupts;
  readonly #remote: RemotePath;
  #dma: DeviceDma | undefined;
  readonly #hasKernelPath: boolean;
  /** Whether this opener has been told that its memory is accessed by message. */
  #hasTold = false;

  constructor({ shared, task, doorbells, mac, mtu, maxFrame, ...port }: VirtioNetParts) {
    super();
    this.#hasKernelPath = port.hasKernelPath;
    this.#state = new SharedState(shared);
    this.#task = task;
    this.#doorbells = doorbells;
    this.#net = new NetConfig(mac, mtu, this.#state);
    this.#common = new CommonConfig(
      {
        offered: (BASE_FEATURES & ~port.lacking) | offloadFeatures(port.offloads),
        requirements: FEATURE_REQUIREMENTS,
      },
      this.#state,
      {
        start: (queues) => this.#start(queues),
        stop: () => this.#stop(),
        revector: () => this.#callKernelPath({ kind: 'vectors' }),
      },
      (what) => this.#misuse(what),
    );
    this.#remote = new RemotePath({
      maxFrame,
      access: (at, data, isWrite) => this.#dma?.rw(iova(BigInt(at)), data, isWrite),
      call: (command) => this.#call(command),
      isMaster: () => (this.#state.command & PCI_COMMAND_MASTER) !== 0,
      report: (queue, cause) => {
        if ('misuse' in cause) this.#misuse(`queue ${queue}: ${cause.misuse}`);
        else this.#tell('queue stopped', `queue ${queue} has stopped until a reset: ${cause.error.message}`);
      },
    });
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
      device: this.#net,
      doorbells,
      ring: (queue) => this.#ring(queue),
    });
    task.receive = (message) => this.#hear(message as QueueNotice);
  }

  openDevice({ dma }: OpenDevice): void {
    this.regions.resetConfig();
    this.#state.command = this.regions.command;
    this.#dma = dma;
    this.#hasTold = false;
    this.#call({ kind: 'attach', table: dma.table });
    this.#common.reset();
  }

  closeDevice(): void {
    this.#common.reset();
    this.#interrupts[Symbol.dispose]();
    this.#call({ kind: 'detach' });
    this.#dma = undefined;
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

  /** The kernel does not see the table of maps, so it is told. */
  dmaUnmap(at: Iova, bytes: bigint): void {
    this.#callKernelPath({ kind: 'unmap', iova: Number(at), bytes: Number(bytes) });
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
    const doorbell = this.#doorbells[queue];
    if (doorbell !== undefined) signalEventfd(doorbell.number);
    else this.#misuse(`doorbell of queue ${queue}`);
  }

  #start(queues: readonly QueueSetup[]): void {
    const accepted = negotiated(this.#common.features);
    this.#remote.start(queues, accepted);
    this.#call({ kind: 'start', queues, negotiated: accepted, epoch: this.#remote.epoch });
  }

  #stop(): void {
    this.#call({ kind: 'stop' });
    this.#remote.stop();
  }

  #callKernelPath(command: QueueCommand): void {
    if (this.#hasKernelPath) this.#call(command);
  }

  #call(command: QueueCommand): unknown {
    return this.#task.call(command);
  }

  #hear(notice: QueueNotice): void {
    switch (notice.kind) {
      case 'misuse':
        this.#misuse(`queue ${notice.queue}: ${notice.what}`);
        break;
      case 'remote':
        this.#serveRemote(notice);
        break;
      case 'turn':
        this.#remote.turn();
        break;
      case 'remap':
        this.#call({ kind: 'remap' });
        break;
      case 'handedOver':
        this.#tell(
          'packet path',
          `until it is reset, this process moves its packets in place of vhost-net: ${notice.why}`,
        );
        break;
      case 'linkDown':
        this.#tell('link down', `its link is down: ${notice.error}`);
    }
  }

  #serveRemote({ queue, position, epoch }: RemoteNotice): void {
    if (!this.#remote.add(queue, position, epoch)) return;
    if (!this.#hasTold) {
      this.#tell('remote memory', 'its queues use memory that is not shared, so they are served by message');
    }
    this.#hasTold = true;
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

import type { Iova } from '../../sys/address.js';
import { SysError, type SysErrorInit } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import type { Fd } from '../../sys/fd.js';
import type { OpenDevice } from '../../vfio/driver.js';
import type { WrittenPagesData } from '../../vfio/written-pages.js';
import type { VirtioIdentity } from '../virtio/config-space.js';
import type { VirtioDmaLog } from '../virtio/dma-log.js';
import type { FunctionCommand, PausedQueues, QueuePositions } from '../virtio/messages.js';
import { VirtioFunction } from '../virtio/pci-function.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import type { TypeState } from '../virtio/saved-state.js';
import type { TransportStateBuffer } from '../virtio/transport-state.js';
import { ControlQueue } from './control-queue.js';
import type { QueueCommand, QueueNotice, RemoteNotice } from './messages.js';
import { FEATURE_REQUIREMENTS, negotiated, offloadFeatures } from './negotiated.js';
import { BASE_FEATURES, NetConfig, queueFeatures } from './net-config.js';
import { controlQueueOf, pairOf, receiveQueueOf, transmitQueueOf, usablePairs } from './queue-layout.js';
import { RemotePath, type RemotePathParts } from './remote-path.js';
import { readNet, type SavedNet, saveNet } from './saved-state.js';
import { SharedState } from './shared-state.js';

const PCI_CLASS_NETWORK_ETHERNET = 0x0200;
const IDENTITY: VirtioIdentity = { type: 1, pciClass: PCI_CLASS_NETWORK_ETHERNET };

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioNetParts {
  readonly shared: TransportStateBuffer;
  /** The queue tasks, one for each queue pair, whose ports are open. */
  readonly tasks: readonly EventTask[];
  /** One eventfd per queue. */
  readonly doorbells: readonly Fd[];
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** Whether it was chosen for this card: a state that is loaded does not change it. */
  readonly isMacGiven: boolean;
  readonly mtu: number;
  /** Longest frame either way, in bytes, Ethernet header included. */
  readonly maxFrame: number;
  /** The offloads to offer, of those that the ports have (`TUN_F_` bits). */
  readonly offloads: number;
  /** Features that a port does not have. */
  readonly lacking: bigint;
  /** Whether the kernel moves the frames, of a pair at least. */
  readonly hasKernelPath: boolean;
  /** Whether all that writes to guest memory can log it. */
  readonly canLog: boolean;
}

/** The registers of a virtio-net PCI function. Machine thread only. */
export class VirtioNetDevice extends VirtioFunction<SharedState, QueueCommand> {
  readonly #tasks: readonly EventTask[];
  readonly #remotes: readonly RemotePath[];
  readonly #control: ControlQueue;
  readonly #hasKernelPath: boolean;
  readonly #canLog: boolean;
  readonly #config: NetConfig;
  /** The card's own; the configuration has that of a state which has been loaded, until the next opener. */
  readonly #mac: Uint8Array;
  readonly #isMacGiven: boolean;
  readonly #mtu: number;
  /** Queue pairs that the driver uses. */
  #activePairs = 1;
  /** Queues that have been started. */
  readonly #started = new Set<number>();
  #isLinkDown = false;

  constructor({ shared, tasks, doorbells, mac, isMacGiven, mtu, maxFrame, ...port }: VirtioNetParts) {
    const pairs = tasks.length;
    const state = new SharedState(shared, pairs);
    const config = new NetConfig(mac, mtu, state, pairs);
    super({
      name: 'virtio-net',
      identity: IDENTITY,
      features: {
        offered: (BASE_FEATURES & ~port.lacking) | queueFeatures(pairs) | offloadFeatures(port.offloads),
        requirements: FEATURE_REQUIREMENTS,
      },
      state,
      task: tasks[0] as EventTask,
      doorbells,
      config,
    });
    this.#config = config;
    this.#mac = mac;
    this.#isMacGiven = isMacGiven;
    this.#mtu = mtu;
    this.#tasks = tasks;
    this.#hasKernelPath = port.hasKernelPath;
    this.#canLog = port.canLog;
    const memory = this.remoteMemory;
    const report: RemotePathParts['report'] = (queue, cause) => {
      if ('misuse' in cause) this.misuse(`queue ${queue}: ${cause.misuse}`);
      else this.tell('queue stopped', `queue ${queue} has stopped until a reset: ${cause.error.message}`);
    };
    this.#remotes = tasks.map(
      (task, pair) =>
        new RemotePath({ ...memory, pair, maxFrame, call: (command) => task.call(command), report }),
    );
    this.#control = new ControlQueue({
      ...memory,
      setPairs: (wanted) => this.#setPairs(wanted),
      used: (queue) => tasks[0]?.call({ kind: 'used', queue } satisfies QueueCommand),
      report: (queue, cause) => {
        tasks[0]?.call({ kind: 'giveUp', queue } satisfies QueueCommand);
        report(queue, cause);
      },
    });
    for (const [pair, task] of tasks.entries())
      task.receive = (message) => this.#hear(pair, message as QueueNotice);
  }

  override get dmaLogging(): VirtioDmaLog | undefined {
    return this.#canLog ? super.dmaLogging : undefined;
  }

  /** The kernel of each pair may refuse. */
  protected override sendLog(log: WrittenPagesData | undefined): void {
    for (const task of this.#tasks) {
      const refusal = task.call({ kind: 'log', log } satisfies QueueCommand) as SysErrorInit | undefined;
      if (refusal !== undefined) throw new SysError(refusal);
    }
  }

  protected override gatherLog(from: bigint, length: bigint): void {
    this.#callKernelPath({ kind: 'gatherLog', iova: Number(from), bytes: Number(length) });
  }

  override openDevice(open: OpenDevice): void {
    this.#config.mac = this.#mac;
    super.openDevice(open);
  }

  protected override get typeState(): TypeState {
    return {
      name: 'vnet',
      description: `a network card with ${this.#tasks.length} queue pairs and an MTU of ${this.#mtu}`,
      save: (out) => saveNet(out, this.#saved),
      read: (reader, common) => {
        const saved = readNet(reader, this.#saved, common);
        return () => this.#takeOver(saved);
      },
    };
  }

  get #saved(): SavedNet {
    const { pairs, isLinkUp } = { pairs: this.#tasks.length, isLinkUp: this.state.isLinkUp };
    return { pairs, isLinkUp, mtu: this.#mtu, mac: this.#config.mac, activePairs: this.#activePairs };
  }

  /** The wire is this card's, and so is an address that was chosen for it: the driver is told if they are other ones. */
  #takeOver({ mac, isLinkUp, activePairs }: SavedNet): boolean {
    const isOtherMac = this.#isMacGiven && mac.some((byte, i) => byte !== this.#mac[i]);
    this.#config.mac = isOtherMac ? this.#mac : mac;
    this.#activePairs = activePairs;
    const own = this.state.isLinkUp;
    const isOther = isOtherMac || own !== isLinkUp;
    if (isOther) this.state.setLink(own); // and another generation of the configuration
    return isOther;
  }

  /** The kernel does not see the table of maps, so it is told. */
  dmaUnmap(at: Iova, bytes: bigint): void {
    this.#callKernelPath({ kind: 'unmap', iova: Number(at), bytes: Number(bytes) });
  }

  protected override startQueues(queues: readonly QueueSetup[], positions?: QueuePositions): void {
    const { features } = this.common;
    const accepted = negotiated(features);
    const pairs = this.#tasks.length;
    for (const [pair, remote] of this.#remotes.entries()) {
      const own = queues.filter(({ index }) => pairOf(index, features, pairs) === pair);
      if (own.length === 0) continue;
      remote.start(own, accepted);
      const { epoch } = remote;
      this.#callPair(pair, { kind: 'start', queues: own, negotiated: accepted, epoch, positions });
    }
    const controlq = controlQueueOf(features, pairs);
    for (const setup of queues) {
      this.#started.add(setup.index);
      if (setup.index !== controlq) continue;
      this.#control.start(setup, positions?.get(controlq) ?? 0);
      this.#callPair(0, { kind: 'startControl', queue: controlq });
    }
    if (positions !== undefined) this.#activateAgain();
  }

  /** The pairs that the driver uses take part again, of a card that has gone on with them, or that another one was moved to. */
  #activateAgain(): void {
    for (let pair = 1; pair < this.#activePairs; pair++) {
      if (this.#callPair(pair, { kind: 'activate', isActive: true }) === true) continue;
      this.tell('queue pairs', `the host refuses queue pair ${pair}, which the driver uses: it has to reset`);
      this.#callPair(pair, { kind: 'giveUp', queue: receiveQueueOf(pair) });
    }
  }

  protected override pauseQueues(): PausedQueues {
    const positions = new Map(this.#control.positions);
    const pending = new Set<number>();
    for (const [pair, task] of this.#tasks.entries()) {
      const paused = task.call({ kind: 'pause' } satisfies QueueCommand) as PausedQueues;
      const remote = this.#remotes[pair] as RemotePath;
      for (const [queue, position] of [...paused.positions, ...remote.positions])
        positions.set(queue, position);
      for (const vector of paused.pending) pending.add(vector);
      remote.stop();
    }
    this.#control.stop();
    return { positions, pending: [...pending] };
  }

  protected override resumeInterrupts(pending: readonly number[]): void {
    for (const [pair, task] of this.#tasks.entries())
      task.call({ kind: 'resume', pending: pair === 0 ? pending : [] } satisfies QueueCommand);
  }

  protected override stopQueues(): void {
    super.stopQueues();
    for (const remote of this.#remotes) remote.stop();
    this.#control.stop();
    this.#started.clear();
    this.#activePairs = 1;
  }

  protected override revectorQueues(): void {
    this.#callKernelPath({ kind: 'vectors' });
  }

  /** To the queue tasks of all pairs. The INTx pin, and its mask, are the first one's. */
  protected override call(command: FunctionCommand | QueueCommand): void {
    const tasks = command.kind === 'maskIntx' ? this.#tasks.slice(0, 1) : this.#tasks;
    for (const task of tasks) task.call(command);
  }

  #callPair(pair: number, command: QueueCommand): unknown {
    return this.#tasks[pair]?.call(command);
  }

  #callKernelPath(command: QueueCommand): void {
    if (this.#hasKernelPath) this.call(command);
  }

  /** VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: when it returns, no other pair receives frames. 5.1.6.5.5 */
  #setPairs(wanted: number): boolean {
    const most = usablePairs(this.common.features, this.#tasks.length);
    if (most === 1 || wanted < 1 || wanted > most) {
      this.misuse(`a request for ${wanted} queue pairs of ${most}`);
      return false;
    }
    for (let pair = 0; pair < wanted; pair++) {
      if (this.#started.has(receiveQueueOf(pair)) && this.#started.has(transmitQueueOf(pair))) continue;
      this.misuse(`a request for ${wanted} queue pairs, of which pair ${pair} is not set up`);
      return false;
    }
    const before = this.#activePairs;
    for (; this.#activePairs < wanted; this.#activePairs++) {
      if (this.#callPair(this.#activePairs, { kind: 'activate', isActive: true }) === true) continue;
      this.tell('queue pairs', `the host refuses more queue pairs than ${before}: is the interface gone?`);
      this.#endPairs(before);
      return false;
    }
    this.#endPairs(wanted);
    return true;
  }

  /** Ends the use of pairs, until this many are left. */
  #endPairs(left: number): void {
    while (this.#activePairs > left) {
      this.#activePairs--;
      this.#callPair(this.#activePairs, { kind: 'activate', isActive: false });
    }
  }

  #hear(pair: number, notice: QueueNotice): void {
    switch (notice.kind) {
      case 'misuse':
        this.misuse(`queue ${notice.queue}: ${notice.what}`);
        break;
      case 'remote':
        this.#serveRemote(pair, notice);
        break;
      case 'turn':
        this.#remotes[pair]?.turn();
        break;
      case 'control':
        this.#callPair(0, { kind: 'endControl', hasMore: this.#control.turn() });
        break;
      case 'remap':
        this.#callPair(pair, { kind: 'remap' });
        break;
      case 'handedOver': {
        const what = this.#tasks.length === 1 ? 'its packets' : `the packets of queue pair ${pair}`;
        const text = `until it is reset, this process moves ${what} in place of vhost-net: ${notice.why}`;
        this.tell('packet path', text);
        break;
      }
      case 'linkDown':
        // Each pair of the interface meets the error.
        if (!this.#isLinkDown) this.tell('link down', `its link is down: ${notice.error}`);
        this.#isLinkDown = true;
        break;
      case 'captureEnded':
        this.tell('capture', `its frames are not captured any more: ${notice.error}`);
    }
  }

  #serveRemote(pair: number, { queue, position, epoch }: RemoteNotice): void {
    if (this.#remotes[pair]?.add(queue, position, epoch) !== true) return;
    this.tellRemote('its queues use memory that is not shared, so they are served by message');
  }
}

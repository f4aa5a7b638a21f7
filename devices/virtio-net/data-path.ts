import type { EventContext } from '../../sys/event-task.js';
import { type DmaTableBuffer, DmaTableReader } from '../../vfio/dma-table.js';
import type { NetPort } from '../net/index.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { InterruptSignals } from './interrupt-signals.js';
import type { QueueNotice, QueueSetup, QueueTaskData, ReceiveReply } from './messages.js';
import type { SharedState } from './shared-state.js';
import { NET_HEADER_BYTES, RECEIVEQ, RX_HEADER, TRANSMITQ } from './spec.js';
import { SplitQueue } from './split-queue.js';

/** Most chains per queue and turn: bounds the time that unmaps and other tasks wait. */
const BURST = 64;
/** Most frames to drop when a driver starts: above the capacity of any port. */
const STALE_FRAMES = 1024;
/** Least time between two turns of remote queues. */
const TURN_GAP_MS = 1;

/** Moves frames between the guest's queues and a port. Event thread only. */
export class DataPath implements Disposable {
  readonly #port: NetPort;
  readonly #state: SharedState;
  readonly #signals: InterruptSignals;
  readonly #context: EventContext;
  readonly #doorbells: readonly number[];
  readonly #maxFrame: number;
  readonly #watches: Disposable[] = [];
  #portWatch: Disposable | undefined;
  /** Present while the port is full. */
  #roomWatch: Disposable | undefined;
  #table: DmaTableReader | undefined;
  #rx: SplitQueue | undefined;
  #tx: SplitQueue | undefined;
  /** Indexes of queues in memory of another process, which the registers' thread serves. @see RemotePath */
  readonly #remote = new Set<number>();
  #epoch = 0;
  /** Whether the registers have been asked for a turn that is not over. */
  #isTurnAsked = false;
  #isTurnAskedAgain = false;
  /** Whether a frame may be waiting for a buffer of the guest. */
  #isStalled = false;
  #isPortGone = false;
  /** Present while work is left for another turn. */
  #continuation: Disposable | undefined;

  constructor(
    port: NetPort,
    state: SharedState,
    signals: InterruptSignals,
    context: EventContext,
    data: Pick<QueueTaskData, 'doorbells' | 'maxFrame'>,
  ) {
    this.#port = port;
    this.#state = state;
    this.#signals = signals;
    this.#context = context;
    this.#doorbells = data.doorbells;
    this.#maxFrame = data.maxFrame;
  }

  attach(table: DmaTableBuffer): void {
    this.#table = new DmaTableReader(table);
  }

  /** Stops the queues, and detaches from guest memory. */
  detach(): void {
    this.stop();
    this.#table = undefined;
  }

  /**
   * Starts processing one queue or both.
   * @param epoch comes back with the notice of a queue that is remote
   * @throws SysError if a doorbell cannot be watched
   */
  start(queues: readonly QueueSetup[], epoch: number): void {
    const table = this.#table;
    if (table === undefined) return;
    this.#epoch = epoch;
    for (const setup of queues) {
      const queue = new SplitQueue(setup, table, setup.index === RECEIVEQ);
      if (setup.index === RECEIVEQ) {
        this.#dropStaleFrames();
        this.#rx = queue;
      } else {
        this.#tx = queue;
      }
      const doorbell = this.#doorbells[setup.index] as number;
      this.#watches.push(this.#context.watch(doorbell, () => this.#onDoorbell(), true));
    }
    this.pump();
  }

  /** Stops both queues: after this, no guest memory is accessed and no interrupt is raised. */
  stop(): void {
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
    this.#unwatchPort();
    this.#rx = undefined;
    this.#tx = undefined;
    this.#remote.clear();
    this.#isStalled = false;
    this.#continuation?.[Symbol.dispose]();
    this.#continuation = undefined;
  }

  /** Runs one turn of both queues, and has remote ones served. */
  pump(): void {
    if (this.#remote.size > 0) this.#askTurn();
    this.#turn();
  }

  #turn(): void {
    const table = this.#table;
    if (table === undefined || (this.#rx ?? this.#tx) === undefined) return;
    if ((this.#state.command & PCI_COMMAND_MASTER) === 0) {
      this.#unwatchPort();
      return;
    }
    let hasMore = false;
    let wantsTx = false;
    let wantsRx = false;
    table.enter();
    try {
      // Transmit first: the port may have the replies ready for the receive that follows.
      if (this.#tx?.map()) {
        hasMore = this.#transmit(this.#tx);
        wantsTx = this.#tx.publish();
      }
      if (!this.#isPortGone && this.#rx?.map()) {
        hasMore = this.#receive(this.#rx) || hasMore;
        wantsRx = this.#rx.publish();
      }
    } finally {
      table.leave();
    }
    if (wantsTx) this.#signals.queue(TRANSMITQ);
    if (wantsRx) this.#signals.queue(RECEIVEQ);
    if (this.#tx?.fault !== undefined) this.#tx = this.#giveUp(this.#tx);
    if (this.#rx?.fault !== undefined) this.#rx = this.#giveUp(this.#rx);
    if (this.#tx?.isRemote) this.#tx = this.#handOver(this.#tx);
    if (this.#rx?.isRemote) this.#rx = this.#handOver(this.#rx);
    this.#watchPort();
    if (hasMore) this.#continueLater();
  }

  #onDoorbell(): void {
    this.#state.count('doorbells');
    this.pump();
  }

  /**
   * Continues once other fds and messages have had their turn. Not by a doorbell: whoever shares its eventfd can fill it
   * and have a write to it block.
   */
  #continueLater(): void {
    this.#continuation ??= this.#context.after(0, () => {
      this.#continuation = undefined;
      this.pump();
    });
  }

  /** Returns whether chains may remain. */
  #transmit(queue: SplitQueue): boolean {
    queue.suppressDoorbells();
    for (let turn = 0; turn < BURST; turn++) {
      if (this.#port.isFull === true) {
        this.#awaitRoom();
        return false;
      }
      if (!queue.next(NET_HEADER_BYTES, this.#maxFrame)) {
        if (queue.fault !== undefined || queue.isRemote || !queue.wantDoorbells()) return false;
        queue.suppressDoorbells();
        continue;
      }
      this.#send(queue.parts, queue.bytes);
      queue.push(0);
    }
    return true;
  }

  #send(parts: readonly Uint8Array[], bytes: number): void {
    if (bytes > 0 && bytes <= this.#maxFrame && !this.#isPortGone && this.#port.transmit(parts)) {
      this.#state.count('txPackets');
      this.#state.count('txBytes', bytes);
    } else {
      this.#state.count('txDropped');
    }
  }

  /** Returns whether frames may remain for which buffers may be available. */
  #receive(queue: SplitQueue): boolean {
    this.#isStalled = false;
    for (let turn = 0; turn < BURST; turn++) {
      if (this.#port.pending() === 0) return false;
      queue.suppressDoorbells();
      if (!queue.next(0, NET_HEADER_BYTES + this.#maxFrame)) {
        if (queue.fault !== undefined || queue.isRemote) return false;
        if (queue.wantDoorbells()) continue;
        this.#isStalled = true;
        return false;
      }
      if (queue.bytes < NET_HEADER_BYTES) {
        queue.fault = `a receive buffer of ${queue.bytes} bytes`;
        return false;
      }
      writeHeader(queue.parts);
      const length = this.#receiveFrame(queue.parts);
      if (length > 0) {
        queue.push(NET_HEADER_BYTES + length);
        this.#countReceived(length);
      } else {
        queue.unpop();
        if (length === 0) return false;
        this.#state.count('rxDropped');
      }
    }
    return true;
  }

  #countReceived(length: number): void {
    this.#state.count('rxPackets');
    this.#state.count('rxBytes', length);
  }

  /** Sends frames of a remote queue until the port is full. Returns how many it took. */
  transmitRemote(frames: readonly Uint8Array[]): number {
    let taken = 0;
    for (; taken < frames.length && this.#port.isFull !== true; taken++) {
      const frame = frames[taken] as Uint8Array;
      this.#send([frame], frame.length);
    }
    if (taken < frames.length) this.#awaitRoom();
    // The port may have the replies ready for a receive queue that is not remote.
    this.#turn();
    return taken;
  }

  /** Takes a frame for each buffer of a remote queue. @param capacities bytes of the buffers without their header */
  receiveRemote(capacities: readonly number[]): ReceiveReply {
    const frames: Uint8Array[] = [];
    const scratch = new Uint8Array(Math.max(0, ...capacities));
    for (let turn = 0; turn < BURST && frames.length < capacities.length && !this.#isPortGone; turn++) {
      const length = this.#receiveFrame([scratch.subarray(0, capacities[frames.length])]);
      if (length === 0) {
        this.#isStalled = false;
        break;
      }
      if (length < 0) {
        this.#state.count('rxDropped');
        continue;
      }
      frames.push(scratch.slice(0, length));
      this.#countReceived(length);
    }
    const next = this.#isPortGone ? 0 : this.#port.pending();
    // A port that cannot say what it has (a tap, -1) is readable if it has something.
    if (next >= 0) this.#isStalled = next > 0;
    this.#watchPort();
    return { frames, hasMore: this.#isStalled };
  }

  /** A remote queue has stopped. */
  giveUpRemote(queue: number): void {
    this.#remote.delete(queue);
    this.#demandReset();
    this.#watchPort();
  }

  /** Asks the registers for a turn of the remote queues; during a turn, for another one. */
  #askTurn(): void {
    if (this.#isTurnAsked) {
      this.#isTurnAskedAgain = true;
      return;
    }
    this.#isTurnAsked = true;
    this.#notify({ kind: 'turn' });
  }

  /** The turn is over. The next one begins later, so that other work of the registers' thread comes first. */
  endTurn(hasMore: boolean): void {
    this.#isTurnAsked = false;
    if (!hasMore && !this.#isTurnAskedAgain) return;
    this.#isTurnAskedAgain = false;
    this.#context.after(TURN_GAP_MS, () => {
      if (this.#remote.size > 0) this.#askTurn();
    });
  }

  #handOver(queue: SplitQueue): undefined {
    const { index, position } = queue;
    this.#remote.add(index);
    if (index === RECEIVEQ) this.#isStalled = true; // a frame may wait
    this.#notify({ kind: 'remote', queue: index, position, epoch: this.#epoch });
    this.#askTurn();
  }

  /** As {@link NetPort.receive}. A port that fails sets the link down, and returns no further frames. */
  #receiveFrame(parts: readonly Uint8Array[]): number {
    try {
      return this.#port.receive(parts);
    } catch (error) {
      this.#isPortGone = true;
      this.#state.setLink(false);
      this.#signals.config();
      this.#notify({ kind: 'linkDown', error: String(error) });
      return 0;
    }
  }

  /** Drops frames that arrived before the driver started, as a NIC does while it is down. */
  #dropStaleFrames(): void {
    const scratch = [new Uint8Array(this.#maxFrame)];
    for (let i = 0; i < STALE_FRAMES && !this.#isPortGone && this.#receiveFrame(scratch) !== 0; i++);
  }

  /** 2.1.2: reports that the device needs a reset, and stops processing the queue until then. */
  #giveUp(queue: SplitQueue): undefined {
    this.#demandReset();
    this.#notify({ kind: 'misuse', queue: queue.index, what: queue.fault as string });
  }

  #demandReset(): void {
    this.#state.demandReset();
    this.#signals.config();
  }

  #watchPort(): void {
    const { fd } = this.#port;
    const hasQueue = this.#rx !== undefined || this.#remote.has(RECEIVEQ);
    if (fd < 0 || this.#isPortGone || this.#isStalled || !hasQueue) this.#unwatchPort();
    else this.#portWatch ??= this.#context.watch(fd, () => this.#onFrames());
  }

  #onFrames(): void {
    if (this.#remote.has(RECEIVEQ)) {
      // Its turn comes later; until then the port would call again and again.
      this.#isStalled = true;
      this.#unwatchPort();
    }
    this.pump();
  }

  #unwatchPort(): void {
    this.#portWatch?.[Symbol.dispose]();
    this.#portWatch = undefined;
  }

  /** Waits until the port has room. Frames wait in the guest's queue; a partly sent one goes first. */
  #awaitRoom(): void {
    this.#roomWatch ??= this.#context.watchWritable(this.#port.writableFd as number, () => {
      if (this.#port.isFull === true) return;
      this.#roomWatch?.[Symbol.dispose]();
      this.#roomWatch = undefined;
      this.pump();
    });
  }

  #notify(notice: QueueNotice): void {
    this.#context.notify(notice);
  }

  [Symbol.dispose](): void {
    this.detach();
    this.#roomWatch?.[Symbol.dispose]();
    this.#port[Symbol.dispose]();
  }
}

/** Writes struct virtio_net_hdr to the first bytes of the parts, and removes these. */
function writeHeader(parts: Uint8Array[]): void {
  for (let done = 0; done < NET_HEADER_BYTES; ) {
    const part = parts[0] as Uint8Array;
    const bytes = Math.min(part.length, NET_HEADER_BYTES - done);
    for (let i = 0; i < bytes; i++) part[i] = RX_HEADER[done + i] as number;
    if (bytes === part.length) parts.shift();
    else parts[0] = part.subarray(bytes);
    done += bytes;
  }
}

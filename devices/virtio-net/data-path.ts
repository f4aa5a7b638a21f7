import type { EventContext } from '../../sys/event-task.js';
import { type DmaTableBuffer, DmaTableReader } from '../../vfio/dma-table.js';
import type { WrittenPages } from '../../vfio/written-pages.js';
import type { NetPort } from '../net/index.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { QUEUE_SIZE_MAX } from '../virtio/spec.js';
import { SplitQueue } from '../virtio/split-queue.js';
import { TurnRequests } from '../virtio/turn-requests.js';
import type { QueueNotice, QueueTaskData, ReceiveReply } from './messages.js';
import { isWithin, longestFrame, type Negotiated, NOTHING_NEGOTIATED } from './negotiated.js';
import { isReceiveQueue, receiveQueueOf, transmitQueueOf } from './queue-layout.js';
import { ReceiveSide } from './receive-side.js';
import type { SharedState } from './shared-state.js';
import { NET_HEADER_BYTES } from './spec.js';

/** Most chains of the transmit queue per turn: bounds the time that unmaps and other tasks wait. */
const BURST = 64;

/** Moves frames between a queue pair of the guest and a port. Event thread only. */
export class DataPath implements Disposable {
  readonly #port: NetPort;
  readonly #state: SharedState;
  readonly #signals: InterruptSignals;
  readonly #context: EventContext;
  readonly #doorbells: readonly number[];
  readonly #maxFrame: number;
  readonly #receiveq: number;
  readonly #transmitq: number;
  /** Whether the driver uses the pair: if not, what it sends is dropped, and it receives nothing. */
  #isActive: boolean;
  #negotiated = NOTHING_NEGOTIATED;
  readonly #watches: Disposable[] = [];
  #portWatch: Disposable | undefined;
  /** Present while the port is full. */
  #roomWatch: Disposable | undefined;
  #table: DmaTableReader | undefined;
  #rx: SplitQueue | undefined;
  #tx: SplitQueue | undefined;
  /**
   * Queues in memory of another process, which the registers' thread serves, with the index of the first chain that was its to take.
   * @see RemotePath
   */
  readonly #remote = new Map<number, number>();
  #epoch = 0;
  /** Turns of the remote queues. */
  readonly #turns: TurnRequests;
  readonly #receiver: ReceiveSide;
  /** Present while work is left for another turn. */
  #continuation: Disposable | undefined;

  constructor(
    port: NetPort,
    state: SharedState,
    signals: InterruptSignals,
    context: EventContext,
    data: Pick<QueueTaskData, 'doorbells' | 'maxFrame' | 'pair'>,
  ) {
    this.#port = port;
    this.#state = state;
    this.#signals = signals;
    this.#context = context;
    this.#doorbells = data.doorbells;
    this.#maxFrame = data.maxFrame;
    this.#receiveq = receiveQueueOf(data.pair);
    this.#transmitq = transmitQueueOf(data.pair);
    this.#isActive = data.pair === 0;
    this.#turns = new TurnRequests(
      context,
      () => this.#notify({ kind: 'turn' }),
      () => this.#remote.size > 0,
    );
    this.#receiver = new ReceiveSide({
      port,
      state,
      maxFrame: data.maxFrame,
      fail: (error) => this.#failPort(error),
    });
  }

  attach(table: DmaTableBuffer): void {
    this.#table = new DmaTableReader(table);
  }

  /** Logs what is written to guest memory, or does not any more. */
  log(log: WrittenPages | undefined): void {
    if (this.#table !== undefined) this.#table.log = log;
  }

  /** Stops the queues, and detaches from guest memory. */
  detach(): void {
    this.stop();
    this.#table = undefined;
  }

  /**
   * Starts processing one queue or both.
   * @param epoch comes back with the notice of a queue that is remote
   * @param positions index of the first chain to take and to return, of a queue that another one has served
   * @throws SysError if a doorbell cannot be watched
   */
  start(
    queues: readonly QueueSetup[],
    negotiated: Negotiated,
    epoch: number,
    positions?: QueuePositions,
  ): void {
    const table = this.#table;
    if (table === undefined) return;
    this.#epoch = epoch;
    this.#negotiated = negotiated;
    for (const setup of queues) {
      const direction = isReceiveQueue(setup.index) ? 'write' : 'read';
      const queue = new SplitQueue(setup, table, direction, positions?.get(setup.index));
      if (setup.index === this.#receiveq) {
        if (this.#isActive) this.#receiver.start(negotiated, positions !== undefined);
        this.#rx = queue;
      } else {
        this.#tx = queue;
      }
      const doorbell = this.#doorbells[setup.index] as number;
      this.#watches.push(this.#context.watch(doorbell, () => this.#onDoorbell(), true));
    }
    this.pump();
  }

  /** Sets the port up for a driver whose queues another one starts. @param keepsFrames as of {@link ReceiveSide.start} */
  prepare(negotiated: Negotiated, keepsFrames: boolean): void {
    this.#negotiated = negotiated;
    if (this.#isActive) this.#receiver.start(negotiated, keepsFrames);
  }

  /**
   * The driver begins to use the pair, or ends. What it has sent until then is sent. Returns false, without a change, if the
   * port refuses.
   */
  setActive(isActive: boolean): boolean {
    if (isActive === this.#isActive) return true;
    if (!isActive) {
      for (let i = 0; i < QUEUE_SIZE_MAX / BURST; i++) this.pump();
      this.#unwatchPort();
    }
    if (this.#port.setActive?.(isActive) === false && isActive) return false;
    this.#isActive = isActive;
    if (isActive) {
      this.#receiver.start(this.#negotiated);
      this.pump();
    } else this.#receiver.stop();
    return true;
  }

  /** Stops both queues: after this, no guest memory is accessed and no interrupt is raised. */
  stop(): void {
    this.#halt();
    this.#receiver.stop();
  }

  /**
   * As {@link stop}, until the queues are started where they were; a frame that is held for want of buffers stays. Returns where that
   * is. Between turns, all chains that have been taken are returned and published.
   */
  pause(): QueuePositions {
    const running = [this.#rx, this.#tx].filter((queue) => queue !== undefined);
    const positions = new Map(this.#remote);
    for (const { index, position } of running) positions.set(index, position);
    this.#halt();
    return positions;
  }

  #halt(): void {
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
    this.#unwatchPort();
    this.#rx = undefined;
    this.#tx = undefined;
    this.#remote.clear();
    this.#continuation?.[Symbol.dispose]();
    this.#continuation = undefined;
  }

  /** Runs one turn of both queues, and has remote ones served. */
  pump(): void {
    if (this.#remote.size > 0) this.#turns.ask();
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
      if (this.#isActive && !this.#receiver.isGone && this.#rx?.map()) {
        hasMore = this.#receiver.receive(this.#rx) || hasMore;
        wantsRx = this.#rx.publish();
      }
    } finally {
      table.leave();
    }
    if (wantsTx) this.#signals.queue(this.#transmitq);
    if (wantsRx) this.#signals.queue(this.#receiveq);
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
    const skip = this.#portHeader === 0 ? NET_HEADER_BYTES : 0;
    const most = this.#portHeader + longestFrame(this.#negotiated.host, this.#maxFrame);
    queue.suppressDoorbells();
    for (let turn = 0; turn < BURST; turn++) {
      if (this.#port.isFull === true) {
        this.#awaitRoom();
        return false;
      }
      if (!queue.next(skip, most)) {
        if (queue.fault !== undefined || queue.isRemote || !queue.wantDoorbells()) return false;
        queue.suppressDoorbells();
        continue;
      }
      this.#send(queue.parts, queue.bytes);
      queue.push(0);
    }
    return true;
  }

  /** Bytes of the header that the port's frames have. */
  get #portHeader(): number {
    return this.#port.offloads === undefined ? 0 : NET_HEADER_BYTES;
  }

  /** @param parts as the port takes them */
  #send(parts: readonly Uint8Array[], bytes: number): void {
    const frame = bytes - this.#portHeader;
    const isSendable = this.#isActive && !this.#receiver.isGone && this.#isSendable(parts, frame);
    if (isSendable && this.#port.transmit(parts)) {
      this.#state.count('txPackets');
      this.#state.count('txBytes', frame);
    } else {
      this.#state.count('txDropped');
    }
  }

  /** The kernel checks a header's offsets. The driver may change it in the meantime, to no one's harm but its own. */
  #isSendable(parts: readonly Uint8Array[], frame: number): boolean {
    if (frame <= 0) return false;
    if (this.#portHeader === 0) return frame <= this.#maxFrame;
    return isWithin(parts, frame, this.#negotiated.host, this.#maxFrame);
  }

  /** Sends frames of a remote queue until the port is full. Returns how many it took. */
  transmitRemote(frames: readonly Uint8Array[]): number {
    const skip = NET_HEADER_BYTES - this.#portHeader;
    let taken = 0;
    for (; taken < frames.length && this.#port.isFull !== true; taken++) {
      const frame = (frames[taken] as Uint8Array).subarray(skip);
      this.#send([frame], frame.length);
    }
    if (taken < frames.length) this.#awaitRoom();
    // The port may have the replies ready for a receive queue that is not remote.
    this.#turn();
    return taken;
  }

  /** Takes frames for chains of a remote queue. @param capacities their bytes, in order */
  receiveRemote(capacities: readonly number[]): ReceiveReply {
    if (!this.#isActive) return { frames: [], hasMore: false };
    const reply = this.#receiver.receiveRemote(capacities);
    this.#watchPort();
    return reply;
  }

  /** A remote queue has stopped. */
  giveUpRemote(queue: number): void {
    this.#remote.delete(queue);
    this.#demandReset();
    this.#watchPort();
  }

  /** A turn of the remote queues is over. */
  endTurn(hasMore: boolean): void {
    this.#turns.end(hasMore);
  }

  #handOver(queue: SplitQueue): undefined {
    const { index, position } = queue;
    this.#remote.set(index, position);
    if (index === this.#receiveq) this.#receiver.isStalled = true; // a frame may wait
    this.#notify({ kind: 'remote', queue: index, position, epoch: this.#epoch });
    this.#turns.ask();
  }

  #failPort(error: unknown): void {
    this.#state.setLink(false);
    this.#signals.config();
    this.#notify({ kind: 'linkDown', error: String(error) });
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
    const hasQueue = this.#isActive && (this.#rx !== undefined || this.#remote.has(this.#receiveq));
    if (fd < 0 || this.#receiver.isGone || this.#receiver.isStalled || !hasQueue) this.#unwatchPort();
    else this.#portWatch ??= this.#context.watch(fd, this.#whenReadable);
  }

  /** A field, as a closure made in {@link #watchPort} would make garbage at each turn, watched already or not. */
  readonly #whenReadable = (): void => {
    this.#receiver.signalled();
    if (this.#remote.has(this.#receiveq)) {
      // Its turn comes later; until then the port would call again and again.
      this.#receiver.isStalled = true;
      this.#unwatchPort();
    }
    this.pump();
  };

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

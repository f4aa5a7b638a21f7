import type { EventContext } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import { type DmaTableBuffer, DmaTableReader } from '../../vfio/dma-table.js';
import type { NetPort } from '../net/index.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { InterruptSignals } from './interrupt-signals.js';
import type { QueueNotice, QueueSetup, QueueTaskData } from './messages.js';
import type { SharedState } from './shared-state.js';
import { NET_HEADER_BYTES, RECEIVEQ, TRANSMITQ } from './spec.js';
import { SplitQueue } from './split-queue.js';

/** Chains per queue and turn: bounds how long guest memory is held, and how long others wait. */
const BURST = 64;
/** Frames thrown away at most when a driver starts: more than any port holds. */
const STALE_FRAMES = 1024;

/** What a device without offloads writes before each frame: zeroes, and one buffer used. 5.1.6.4.1 */
const RX_HEADER = new Uint8Array(NET_HEADER_BYTES);
RX_HEADER[10] = 1;

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
  /** While the port is full. */
  #roomWatch: Disposable | undefined;
  #table: DmaTableReader | undefined;
  #rx: SplitQueue | undefined;
  #tx: SplitQueue | undefined;
  /** A frame may be waiting, but the guest has given no buffer. */
  #isStalled = false;
  #isPortGone = false;
  /** The next doorbell is our own, to go on with. */
  #isContinuing = false;

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

  /** Drops what was attached. */
  detach(): void {
    this.stop();
    this.#table = undefined;
  }

  /** Begins to serve queues; one of them, or both at once. @throws SysError if a doorbell cannot be watched */
  start(queues: readonly QueueSetup[]): void {
    const table = this.#table;
    if (table === undefined) return;
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

  /** After this no guest memory is touched, and no interrupt raised. */
  stop(): void {
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
    this.#unwatchPort();
    this.#rx = undefined;
    this.#tx = undefined;
    this.#isStalled = false;
    this.#isContinuing = false;
  }

  /** One turn of both queues. */
  pump(): void {
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
      // The guest's frames go first: the port may have its answers ready at once.
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
    this.#watchPort();
    if (hasMore) this.#continueLater();
  }

  #onDoorbell(): void {
    if (!this.#isContinuing) this.#state.count('doorbells');
    this.#isContinuing = false;
    this.pump();
  }

  /** Comes back by a doorbell of our own, so that other fds and messages get their turn. */
  #continueLater(): void {
    this.#isContinuing = true;
    signalEventfd(this.#doorbells[this.#tx === undefined ? RECEIVEQ : TRANSMITQ] as number);
  }

  /** Returns whether chains may be left. */
  #transmit(queue: SplitQueue): boolean {
    queue.suppressDoorbells();
    for (let turn = 0; turn < BURST; turn++) {
      if (this.#port.isFull === true) {
        this.#awaitRoom();
        return false;
      }
      if (!queue.next(NET_HEADER_BYTES, this.#maxFrame)) {
        if (queue.fault !== undefined || !queue.wantDoorbells()) return false;
        queue.suppressDoorbells();
        continue;
      }
      const { bytes } = queue;
      if (bytes > 0 && bytes <= this.#maxFrame && !this.#isPortGone && this.#port.transmit(queue.parts)) {
        this.#state.count('txPackets');
        this.#state.count('txBytes', bytes);
      } else {
        this.#state.count('txDropped');
      }
      queue.push(0);
    }
    return true;
  }

  /** Returns whether frames may be left, for which there may be room. */
  #receive(queue: SplitQueue): boolean {
    this.#isStalled = false;
    for (let turn = 0; turn < BURST; turn++) {
      if (this.#port.pending() === 0) return false;
      queue.suppressDoorbells();
      if (!queue.next(0, NET_HEADER_BYTES + this.#maxFrame)) {
        if (queue.fault !== undefined) return false;
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
        this.#state.count('rxPackets');
        this.#state.count('rxBytes', length);
      } else {
        queue.unpop();
        if (length === 0) return false;
        this.#state.count('rxDropped');
      }
    }
    return true;
  }

  /** As {@link NetPort.receive}; a port that has failed takes the link down and yields nothing any more. */
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

  /** What came while nobody listened is lost, as on a NIC that is down. */
  #dropStaleFrames(): void {
    const scratch = [new Uint8Array(this.#maxFrame)];
    for (let i = 0; i < STALE_FRAMES && !this.#isPortGone && this.#receiveFrame(scratch) !== 0; i++);
  }

  /** 2.1.2: the device says that it needs a reset, and leaves that queue alone until then. */
  #giveUp(queue: SplitQueue): undefined {
    this.#state.demandReset();
    this.#signals.config();
    this.#notify({ kind: 'misuse', queue: queue.index, what: queue.fault as string });
  }

  #watchPort(): void {
    const { fd } = this.#port;
    if (fd < 0 || this.#isPortGone || this.#isStalled || this.#rx === undefined) this.#unwatchPort();
    else this.#portWatch ??= this.#context.watch(fd, () => this.pump());
  }

  #unwatchPort(): void {
    this.#portWatch?.[Symbol.dispose]();
    this.#portWatch = undefined;
  }

  /** The guest's frames wait in its queue, and the part of a frame that the port keeps goes first. */
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

/** Writes struct virtio_net_hdr to the parts' first bytes, and cuts those off. */
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

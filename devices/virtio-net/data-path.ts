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

/** Most chains per queue and turn: bounds the time that unmaps and other tasks wait. */
const BURST = 64;
/** Most frames to drop when a driver starts: above the capacity of any port. */
const STALE_FRAMES = 1024;

/** The header before each frame of a device without offloads: zeroes, and a buffer count of 1. 5.1.6.4.1 */
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
  /** Present while the port is full. */
  #roomWatch: Disposable | undefined;
  #table: DmaTableReader | undefined;
  #rx: SplitQueue | undefined;
  #tx: SplitQueue | undefined;
  /** Whether a frame may be waiting for a buffer of the guest. */
  #isStalled = false;
  #isPortGone = false;
  /** Whether the next doorbell is the device's own, which continues the work. */
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

  /** Stops the queues, and detaches from guest memory. */
  detach(): void {
    this.stop();
    this.#table = undefined;
  }

  /** Starts processing one queue or both. @throws SysError if a doorbell cannot be watched */
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

  /** Stops both queues: after this, no guest memory is accessed and no interrupt is raised. */
  stop(): void {
    for (const watch of this.#watches.splice(0)) watch[Symbol.dispose]();
    this.#unwatchPort();
    this.#rx = undefined;
    this.#tx = undefined;
    this.#isStalled = false;
    this.#isContinuing = false;
  }

  /** Runs one turn of both queues. */
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
    this.#watchPort();
    if (hasMore) this.#continueLater();
  }

  #onDoorbell(): void {
    if (!this.#isContinuing) this.#state.count('doorbells');
    this.#isContinuing = false;
    this.pump();
  }

  /** Rings a doorbell of the device's own, so that other fds and messages get their turn first. */
  #continueLater(): void {
    this.#isContinuing = true;
    signalEventfd(this.#doorbells[this.#tx === undefined ? RECEIVEQ : TRANSMITQ] as number);
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

  /** Returns whether frames may remain for which buffers may be available. */
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

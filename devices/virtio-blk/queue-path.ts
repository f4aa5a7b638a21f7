import type { SysError } from '../../sys/error.js';
import type { EventContext } from '../../sys/event-task.js';
import { type DmaTableBuffer, DmaTableReader } from '../../vfio/dma-table.js';
import type { BlockImage } from '../block/image.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { SplitQueue } from '../virtio/split-queue.js';
import type { DiskNotice } from './messages.js';
import { type RequestTarget, serve } from './request.js';
import type { SharedState } from './shared-state.js';
import { MOST_CHAIN_BYTES, REQUESTQ, VIRTIO_BLK_ID_BYTES } from './spec.js';

/** Most requests, and the time after which no further one begins, per turn: commands of the registers wait for it. */
const BURST = 64;
const TURN_MS = 20;
/** What is done is shown to the driver at the latest after this time, though more is to do. */
const PUBLISH_MS = 0.2;

/** Parts of a {@link QueuePath}. */
export interface QueuePathParts {
  readonly state: SharedState;
  readonly signals: InterruptSignals;
  readonly context: EventContext;
  readonly doorbell: number;
  readonly serial: string;
}

/**
 * Serves a disk's queue, one request after the other: each blocks until the host has done it, which is why a disk has a
 * thread of its own. Data passes between the image and guest memory without a copy. An unmap, a reset or a close waits for
 * the request that is being done.
 */
export class QueuePath implements Disposable {
  readonly #image: BlockImage;
  readonly #parts: QueuePathParts;
  readonly #id = new Uint8Array(VIRTIO_BLK_ID_BYTES);
  #table: DmaTableReader | undefined;
  #queue: SplitQueue | undefined;
  #target: RequestTarget | undefined;
  #watch: Disposable | undefined;
  /** Present while work is left for another turn. */
  #continuation: Disposable | undefined;
  #hasFailed = false;

  /** Owns the image. */
  constructor(image: BlockImage, parts: QueuePathParts) {
    this.#image = image;
    this.#parts = parts;
    new TextEncoder().encodeInto(parts.serial, this.#id);
  }

  attach(table: DmaTableBuffer): void {
    this.#table = new DmaTableReader(table);
  }

  /** Stops the queue, and detaches from guest memory. What the opener wrote is flushed, as far as the host can. */
  detach(): void {
    this.stop();
    this.#table = undefined;
    if (this.#image.isReadOnly) return;
    try {
      this.#image.flush();
    } catch (error) {
      this.#fail(error as SysError);
    }
  }

  /** @throws SysError if the doorbell cannot be watched */
  start(setup: QueueSetup, hasFlush: boolean): void {
    const { state, context, doorbell } = this.#parts;
    if (this.#table === undefined) return;
    this.#hasFailed = false;
    this.#queue = new SplitQueue(setup, this.#table, 'both');
    this.#target = {
      ...{ image: this.#image, state, id: this.#id, hasFlush },
      fail: (error) => this.#fail(error),
    };
    this.#watch = context.watch(
      doorbell,
      () => {
        state.count('doorbells');
        this.pump();
      },
      true,
    );
    this.pump();
  }

  /** Stops the queue: after this, no guest memory is accessed and no interrupt is raised. */
  stop(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    this.#continuation?.[Symbol.dispose]();
    this.#continuation = undefined;
    this.#queue = undefined;
  }

  /** Runs one turn of the queue. */
  pump(): void {
    const queue = this.#queue;
    if (queue === undefined || (this.#parts.state.command & PCI_COMMAND_MASTER) === 0) return;
    const begun = performance.now();
    let shown = begun;
    for (let done = 0; ; done++) {
      const now = performance.now();
      if (done === BURST || now - begun >= TURN_MS) {
        this.#continueLater();
        break;
      }
      if (now - shown >= PUBLISH_MS) {
        this.#show(queue);
        shown = now;
      }
      if (!this.#serveNext(queue)) break;
    }
    this.#show(queue);
    if (queue.fault !== undefined) this.#giveUp({ kind: 'misuse', what: queue.fault });
    else if (queue.isRemote) this.#giveUp({ kind: 'remote' });
  }

  /** Returns whether there was a request. Maps of guest memory stay as they are until it is done. */
  #serveNext(queue: SplitQueue): boolean {
    const table = this.#table as DmaTableReader;
    table.enter();
    try {
      if (!queue.map()) return false;
      queue.suppressDoorbells();
      while (!queue.next(0, MOST_CHAIN_BYTES)) {
        if (queue.fault !== undefined || queue.isRemote || !queue.wantDoorbells()) return false;
        queue.suppressDoorbells();
      }
      if (queue.bytes > MOST_CHAIN_BYTES) {
        queue.fault = `a request of ${queue.bytes} bytes, where ${MOST_CHAIN_BYTES} are allowed`;
        return false;
      }
      const written = serve(this.#target as RequestTarget, queue.parts, queue.readableParts);
      if (typeof written === 'string') {
        queue.fault = written;
        return false;
      }
      queue.push(written);
      return true;
    } finally {
      table.leave();
    }
  }

  /** Shows the driver what is done. */
  #show(queue: SplitQueue): void {
    const { from, to } = queue.unpublished;
    if (from === to) return;
    const table = this.#table as DmaTableReader;
    let wants = false;
    table.enter();
    try {
      if (queue.map()) wants = queue.publish();
    } finally {
      table.leave();
    }
    if (wants) this.#parts.signals.queue(REQUESTQ);
  }

  /** Continues once messages have had their turn. */
  #continueLater(): void {
    this.#continuation ??= this.#parts.context.after(0, () => {
      this.#continuation = undefined;
      this.pump();
    });
  }

  /** 2.1.2: reports that the device needs a reset, and stops processing the queue until then. */
  #giveUp(notice: DiskNotice): void {
    const { state, signals, context } = this.#parts;
    this.#queue = undefined;
    this.#continuation?.[Symbol.dispose]();
    this.#continuation = undefined;
    state.demandReset();
    signals.config();
    context.notify(notice);
  }

  #fail(error: SysError): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.#parts.context.notify({ kind: 'ioError', error: error.message } satisfies DiskNotice);
  }

  [Symbol.dispose](): void {
    this.detach();
    this.#image[Symbol.dispose]();
  }
}

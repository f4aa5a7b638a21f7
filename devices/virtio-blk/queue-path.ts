import type { SysError } from '../../sys/error.js';
import type { EventContext } from '../../sys/event-task.js';
import { type DmaTableBuffer, DmaTableReader } from '../../vfio/dma-table.js';
import type { WrittenPages } from '../../vfio/written-pages.js';
import { type FileIo, finish } from '../block/file-io.js';
import type { BlockImage } from '../block/image.js';
import { lengthOf } from '../memory-parts.js';
import { PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import type { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { QueuePositions } from '../virtio/messages.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { SplitQueue } from '../virtio/split-queue.js';
import { TurnRequests } from '../virtio/turn-requests.js';
import type { DiskNotice, RemoteDone, RemoteRequest } from './messages.js';
import { begin, type RequestTarget } from './request.js';
import type { SharedState } from './shared-state.js';
import { MOST_CHAIN_BYTES, REQUESTQ, VIRTIO_BLK_ID_BYTES } from './spec.js';

/** Most requests that are begun and not done, and the bytes from which on no further one begins. */
const MOST_IN_FLIGHT = 64;
const MOST_BYTES_IN_FLIGHT = 16 << 20;
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
  /** The image's. */
  readonly io: FileIo;
}

/**
 * Serves a disk's queue. Requests go on at the same time, as far as {@link FileIo} does not block, and are returned as they are
 * done. Data passes between the image and guest memory without a copy. An unmap, a reset or a close waits for the requests that
 * have begun, and no further one begins meanwhile.
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
  /** Requests that have begun and are not done, and their chains' bytes: also those of a queue that has stopped. */
  #inFlight = 0;
  #bytesInFlight = 0;
  /** Whether maps of guest memory stay as they are: while something is in flight, and during a turn. */
  #isInside = false;
  readonly #completions: Disposable | undefined;
  /** What is done of the queue that the registers' thread serves; undefined while this one does. */
  #remoteDone: RemoteDone[] | undefined;
  /** Index of its first chain there. */
  #remotePosition = 0;
  /** Turns of the remote queue. */
  readonly #turns: TurnRequests;
  #epoch = 0;

  /** Owns the image and its I/O. @throws SysError if that cannot be watched */
  constructor(image: BlockImage, parts: QueuePathParts) {
    this.#image = image;
    this.#parts = parts;
    new TextEncoder().encodeInto(parts.serial, this.#id);
    const { io, context } = parts;
    this.#turns = new TurnRequests(
      context,
      () => context.notify({ kind: 'turn' } satisfies DiskNotice),
      () => this.#remoteDone !== undefined,
    );
    if (io.pollFd !== undefined) this.#completions = context.watch(io.pollFd, () => this.pump());
  }

  attach(table: DmaTableBuffer): void {
    this.#table = new DmaTableReader(table);
  }

  /** Logs what is written to guest memory, or does not any more. */
  log(log: WrittenPages | undefined): void {
    if (this.#table !== undefined) this.#table.log = log;
  }

  /** Stops the queue, and detaches from guest memory. What the opener wrote is flushed, as far as the host can. */
  detach(): void {
    this.stop();
    this.#table = undefined;
    if (this.#image.isReadOnly) return;
    try {
      finish(this.#parts.io, (done) => this.#image.flush(done));
    } catch (error) {
      this.#fail(error as SysError);
    }
  }

  /** @param position where the queue goes on @throws SysError if the doorbell cannot be watched */
  start(setup: QueueSetup, hasFlush: boolean, epoch: number, position: number): void {
    const { state, context, doorbell } = this.#parts;
    if (this.#table === undefined) return;
    this.#hasFailed = false;
    this.#epoch = epoch;
    this.#queue = new SplitQueue(setup, this.#table, 'both', position);
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

  /**
   * As {@link stop}, until the queue is started where it was: what has begun is returned and shown to the driver. Returns where that is;
   * of a queue that the registers' thread serves, where that has begun.
   */
  pause(): QueuePositions {
    this.drain();
    const queue = this.#queue;
    if (queue !== undefined) this.#showAll(queue);
    const positions: [number, number][] = [];
    if (this.#queue !== undefined) positions.push([REQUESTQ, this.#queue.position]);
    else if (this.#remoteDone !== undefined) positions.push([REQUESTQ, this.#remotePosition]);
    this.stop();
    return new Map(positions);
  }

  /** Waits for all that has begun. */
  drain(): void {
    while (this.#inFlight > 0) this.#parts.io.wait();
  }

  /** Stops the queue once what has begun is done: after this, no guest memory is accessed and no interrupt is raised. */
  stop(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    this.#continuation?.[Symbol.dispose]();
    this.#continuation = undefined;
    this.#queue = undefined;
    this.#remoteDone = undefined;
    this.drain();
    this.#leave();
  }

  /** Takes what is done, and runs one turn of the queue, or has the remote one served. */
  pump(): void {
    const { io, state } = this.#parts;
    io.reap();
    const queue = this.#queue;
    if (this.#remoteDone !== undefined) this.#turns.ask();
    if (queue !== undefined && (state.command & PCI_COMMAND_MASTER) !== 0) this.#turn(queue);
    if (this.#inFlight === 0) this.#leave();
  }

  #turn(queue: SplitQueue): void {
    const { io } = this.#parts;
    const begun = performance.now();
    let shown = begun;
    for (let count = 0; ; count++) {
      const now = performance.now();
      if (count === BURST || now - begun >= TURN_MS) {
        this.#continueLater();
        break;
      }
      if (now - shown >= PUBLISH_MS) {
        io.reap();
        this.#show(queue);
        shown = now;
      }
      if (!this.#hasRoom()) io.reap();
      if (!this.#hasRoom() || !this.#beginNext(queue)) break;
    }
    io.reap();
    this.#show(queue);
    if (queue.fault !== undefined) this.#giveUp({ kind: 'misuse', what: queue.fault });
    else if (queue.isRemote) this.#handOver(queue);
  }

  /** Whether a further request may begin. If not, the end of one that has begun leads to the next turn. */
  #hasRoom(): boolean {
    if (this.#inFlight === 0) return true;
    if ((this.#table as DmaTableReader).isOutdated) return false;
    return this.#inFlight < MOST_IN_FLIGHT && this.#bytesInFlight < MOST_BYTES_IN_FLIGHT;
  }

  /** Returns whether there was a request. */
  #beginNext(queue: SplitQueue): boolean {
    this.#enter();
    if (!queue.map()) return false;
    queue.suppressDoorbells();
    while (!queue.next(0, MOST_CHAIN_BYTES)) {
      if (queue.fault !== undefined || queue.isRemote || !queue.wantDoorbells()) return false;
      queue.suppressDoorbells();
    }
    const { head, bytes, parts, readableParts } = queue;
    if (bytes > MOST_CHAIN_BYTES) {
      queue.fault = `a request of ${bytes} bytes, where ${MOST_CHAIN_BYTES} are allowed`;
      return false;
    }
    const last = parts.at(-1);
    const written = lengthOf(parts) - lengthOf(parts.slice(0, readableParts));
    this.#inFlight++;
    this.#bytesInFlight += bytes;
    const end = (): void => {
      this.#inFlight--;
      this.#bytesInFlight -= bytes;
    };
    const problem = begin(this.#target as RequestTarget, parts, readableParts, (status) => {
      end();
      // A reset, or a violation, has come between.
      if (this.#queue !== queue) return;
      const place = last as Uint8Array;
      place[place.length - 1] = status;
      queue.push(written, head);
    });
    if (problem === undefined) return true;
    end();
    queue.fault = problem;
    return false;
  }

  /** Shows the driver what is done. */
  #show(queue: SplitQueue): void {
    const { from, to } = queue.unpublished;
    if (from === to) return;
    this.#enter();
    if (queue.map() && queue.publish()) this.#parts.signals.queue(REQUESTQ);
  }

  /** Shows all that is done. Returns false, and gives the queue up, if its rings are not there any more. */
  #showAll(queue: SplitQueue): boolean {
    this.#show(queue);
    const { from, to } = queue.unpublished;
    if (from === to) return true;
    this.#giveUp({ kind: 'misuse', what: 'its rings were unmapped while requests were under way' });
    return false;
  }

  /** What has begun is returned first: the chains that are left are those of the registers' thread. */
  #handOver(queue: SplitQueue): void {
    this.drain();
    if (!this.#showAll(queue)) return;
    this.#queue = undefined;
    this.#remoteDone = [];
    const { position } = queue;
    this.#remotePosition = position;
    const { context } = this.#parts;
    context.notify({ kind: 'remote', position, epoch: this.#epoch } satisfies DiskNotice);
    this.#turns.ask();
  }

  /** Begins a request of the remote queue. Returns what is wrong with its chain. */
  beginRemote({ id, given, room }: RemoteRequest): string | undefined {
    const list = this.#remoteDone;
    if (list === undefined) return 'a request of a queue that has stopped';
    const space = new Uint8Array(room);
    this.#inFlight++;
    const problem = begin(this.#target as RequestTarget, [given, space], 1, (status) => {
      this.#inFlight--;
      if (this.#remoteDone !== list) return;
      space[room - 1] = status;
      list.push({ id, space });
      this.#turns.ask();
    });
    if (problem !== undefined) this.#inFlight--;
    return problem;
  }

  /** What is done of the remote queue since the last call. */
  takeDone(): readonly RemoteDone[] {
    this.#parts.io.reap();
    return this.#remoteDone?.splice(0) ?? [];
  }

  /** A turn of the remote queue is over. */
  endTurn(hasMore: boolean): void {
    this.#turns.end(hasMore);
  }

  /** The remote queue has stopped. */
  giveUpRemote(): void {
    this.#remoteDone = undefined;
    this.#demandReset();
  }

  /** Has the maps of guest memory stay as they are; whoever waits to change them comes first, if nothing is in flight. */
  #enter(): void {
    const table = this.#table as DmaTableReader;
    if (this.#isInside && this.#inFlight === 0 && table.isOutdated) this.#leave();
    if (this.#isInside) return;
    table.enter();
    this.#isInside = true;
  }

  #leave(): void {
    if (!this.#isInside) return;
    this.#isInside = false;
    this.#table?.leave();
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
    this.#queue = undefined;
    this.#continuation?.[Symbol.dispose]();
    this.#continuation = undefined;
    this.#demandReset();
    this.#parts.context.notify(notice);
  }

  #demandReset(): void {
    this.#parts.state.demandReset();
    this.#parts.signals.config();
  }

  #fail(error: SysError): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.#parts.context.notify({ kind: 'ioError', error: error.message } satisfies DiskNotice);
  }

  [Symbol.dispose](): void {
    this.detach();
    this.#completions?.[Symbol.dispose]();
    this.#image[Symbol.dispose]();
    this.#parts.io[Symbol.dispose]();
  }
}

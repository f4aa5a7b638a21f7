import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fd } from '../../../sys/fd.js';
import { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { Scope } from '../../../sys/scope.js';
import type { FileIo } from '../../block/file-io.js';
import {
  type ChainBuffer,
  GuestDriver,
  GuestMemory,
  GuestQueue,
  maps,
  STATUS,
} from '../../virtio-net/testing/guest.js';
import { createVirtioBlkDriver, type VirtioBlkInstance } from '../driver.js';
import { start, startWith } from '../queue-task.js';

const TRIGGER_EVENTFD = (1 << 2) | (1 << 5);
const UUID = 'f1d2c0de-0000-4000-8000-000000000002';
const RING = maps.main.iova;
const HEADERS = maps.main.iova + 0x8000;
const STATUSES = maps.main.iova + 0x9000;
/** Where a test may put data. */
export const DATA: number = maps.main.iova + 0x10000;
export const NO_STATUS = 0xaa;
/** For what the host does meanwhile. */
const MOST_MS = 20_000;

/** A folder that is removed with the test. */
export function testFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'tsvisor-disk-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** Bytes that differ from sector to sector. */
export const pattern = (bytes: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + Math.floor(i / 512) * 13 + seed) & 0xff);

/** A disk in the hands of a test: open, with memory, a driver and eventfds behind its interrupts. */
export class DiskBench implements Disposable {
  readonly #scope: Scope;
  readonly thread: InlineEventThread;
  readonly instance: VirtioBlkInstance;
  readonly memory: GuestMemory;
  readonly driver: GuestDriver;
  readonly vectors: readonly Fd[];
  queue!: GuestQueue;
  #requests = 0;

  /**
   * @param options as on the command line
   * @param io in place of the host's
   * @param memory of a guest that another disk has had until now; its own if absent
   */
  constructor(options: Readonly<Record<string, string>>, io?: FileIo, memory?: GuestMemory) {
    using scope = new Scope();
    const task = new URL('test:disk-task');
    this.thread = scope.own(
      new InlineEventThread(new Map([[task.href, io === undefined ? start : startWith(() => io)]])),
    );
    this.memory = memory ?? scope.own(new GuestMemory());
    const driver = createVirtioBlkDriver(task);
    this.instance = scope.own(driver.create(driver.types[0]!, UUID, options, { eventThread: this.thread }));
    this.instance.ops.openDevice(this.memory.open);
    scope.defer(() => this.instance.ops.closeDevice());
    this.vectors = [0, 1].map((i) => scope.own(Fd.eventfd(`vector ${i}`)));
    const data = this.vectors.map((fd) => fd.number);
    this.instance.ops.setIrqs({ index: 2, flags: TRIGGER_EVENTFD, start: 0, count: 2, data });
    this.driver = new GuestDriver(this.instance.ops, this.memory);
    this.#scope = scope.move();
  }

  /** Brings the device up. */
  start(features?: bigint, queueSize = 64): this {
    this.driver.negotiate(features);
    this.queue = new GuestQueue(this.memory, queueSize, RING);
    this.driver.setUpQueue(0, this.queue, 1);
    this.driver.status |= STATUS.driverOk;
    return this;
  }

  /** The driver goes on here that another disk has had until now. */
  follow(before: DiskBench): void {
    this.queue = before.queue;
    this.#requests = before.#requests;
  }

  /** Puts a header and an unset status into memory, and returns their buffers. */
  frame(
    type: number,
    sector: number | bigint,
  ): { readonly header: ChainBuffer; readonly status: ChainBuffer } {
    const slot = this.#requests++ % 64;
    const header = { address: HEADERS + 16 * slot, length: 16 };
    const status = { address: STATUSES + slot, length: 1, isDeviceWritable: true };
    const at = this.memory.at(header.address);
    this.memory.words.setUint32(at, type, true);
    this.memory.words.setUint32(at + 4, 0, true);
    this.memory.words.setBigUint64(at + 8, BigInt(sector), true);
    this.memory.bytes[this.memory.at(status.address)] = NO_STATUS;
    return { header, status };
  }

  statusAt({ address }: ChainBuffer): number {
    return this.memory.bytes[this.memory.at(address)] as number;
  }

  /** Rings the doorbell and lets the device work, until it has returned all chains, needs a reset, or cannot do DMA. */
  ring(): void {
    const end = performance.now() + MOST_MS;
    this.driver.ring(0);
    for (;;) {
      this.thread.pump();
      const { usedIndex, availIndex } = this.queue;
      const isWorking =
        (this.driver.config(4, 2) & 4) !== 0 && (this.driver.status & STATUS.needsReset) === 0;
      if (usedIndex === availIndex || !isWorking) return;
      if (performance.now() > end) throw new Error(`${availIndex - usedIndex} requests are not done`);
    }
  }

  /** Offers one request, and returns its status once the device has had its turn. */
  request(type: number, sector: number | bigint, data: readonly ChainBuffer[]): number {
    const { header, status } = this.frame(type, sector);
    this.queue.add([header, ...data, status]);
    this.ring();
    return this.statusAt(status);
  }

  /** Offers one request, without ringing, with 512 bytes of data of its own. Returns the address of these, and its status. */
  offer(type: number, sector: number): { readonly data: number; readonly status: ChainBuffer } {
    const data = DATA + 512 * (this.#requests % 64);
    const { header, status } = this.frame(type, sector);
    const isDeviceWritable = type === 0;
    this.queue.add(
      [header, ...(type === 4 ? [] : [{ address: data, length: 512, isDeviceWritable }]), status],
      maps.main.iova + 0x40000 + 64 * (this.#requests % 64),
    );
    return { data, status };
  }

  write(sector: number, bytes: Uint8Array): number {
    this.memory.bytes.set(bytes, this.memory.at(DATA));
    return this.request(1, sector, [{ address: DATA, length: bytes.length }]);
  }

  /** @returns the status if it is not 0 */
  read(sector: number, bytes: number): Uint8Array | number {
    const at = this.memory.at(DATA);
    this.memory.bytes.fill(0xee, at, at + bytes);
    const status = this.request(0, sector, [{ address: DATA, length: bytes, isDeviceWritable: true }]);
    return status === 0 ? this.memory.bytes.slice(at, at + bytes) : status;
  }

  /** Discards (11) or writes zeroes (13). @param ranges sector, sectors and flags of each */
  ranges(type: 11 | 13, ranges: readonly (readonly [number, number, number])[]): number {
    const at = this.memory.at(DATA);
    for (const [i, [sector, sectors, flags]] of ranges.entries()) {
      this.memory.words.setBigUint64(at + 16 * i, BigInt(sector), true);
      this.memory.words.setUint32(at + 16 * i + 8, sectors, true);
      this.memory.words.setUint32(at + 16 * i + 12, flags, true);
    }
    return this.request(type, 0, [{ address: DATA, length: 16 * ranges.length }]);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

/** Makes a disk of these bytes. @returns its path */
export function diskFile(folder: string, bytes: Uint8Array, name = 'disk.raw'): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

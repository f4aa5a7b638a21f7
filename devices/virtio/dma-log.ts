import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { type DmaTableBuffer, DmaTableWriter } from '../../vfio/dma-table.js';
import type { DmaLoggingOps } from '../../vfio/driver.js';
import type { LogRange } from '../../vfio/feature.js';
import {
  createWrittenPages,
  LOG_PAGE_BYTES,
  WrittenPages,
  type WrittenPagesData,
} from '../../vfio/written-pages.js';

/** What {@link VirtioDmaLog} needs of its function. */
export interface DmaLogPorts {
  /** The maps of the address space; undefined while the device is closed. */
  readonly table: () => DmaTableBuffer | undefined;
  /** Has every queue task log there, or not any more. */
  readonly send: (log: WrittenPagesData | undefined) => void;
  /** Has what is logged elsewhere, of a range, marked there before it returns. Absent if nothing is. */
  readonly gather?: (iova: bigint, length: bigint) => void;
}

/**
 * The log of the pages that a virtio device writes: rings and buffers. Its queues mark a page when they take the memory for writing, in a
 * burst. Marks are read, and taken away, between bursts, so that what is marked has been written by then, and what is written later is
 * marked again. Machine thread only.
 */
export class VirtioDmaLog implements DmaLoggingOps {
  readonly #name: string;
  readonly #ports: DmaLogPorts;
  #written: WrittenPages | undefined;
  #pageBytes = LOG_PAGE_BYTES;

  /** @param name of the device, for errors */
  constructor(name: string, ports: DmaLogPorts) {
    this.#name = name;
    this.#ports = ports;
  }

  /**
   * Logs by larger pages if the ranges have more than 1 TiB.
   * @throws SysError EINVAL if it is on already, as in Linux's drivers; of what refuses to log, after which nothing does
   */
  start(ranges: readonly LogRange[]): bigint {
    if (this.#written !== undefined) throw this.#invalid('START', 'its log is on already');
    const page = BigInt(LOG_PAGE_BYTES);
    if (ranges.some(({ iova, length }) => iova % page !== 0n || length % page !== 0n))
      throw this.#invalid('START', 'a range is not of whole pages');
    const data = createWrittenPages(ranges);
    try {
      this.#ports.send(data);
    } catch (error) {
      this.#ports.send(undefined);
      throw error;
    }
    this.#pageBytes = data.pageBytes;
    this.#written = new WrittenPages(data);
    return BigInt(data.pageBytes);
  }

  stop(): void {
    if (this.#written === undefined) return;
    this.#written = undefined;
    this.#ports.send(undefined);
  }

  /** @throws SysError EINVAL if it is off */
  readAndClear({ iova, length }: LogRange, pageSize: bigint, bitmap: Uint8Array): void {
    const written = this.#written;
    const table = this.#ports.table();
    if (written === undefined || table === undefined) throw this.#invalid('REPORT', 'its log is off');
    this.#ports.gather?.(iova, length);
    new DmaTableWriter(table).exclusively(() =>
      written.take(iova, length, (page) => {
        const from = page < iova ? 0n : page - iova;
        const end = page + BigInt(this.#pageBytes) - iova;
        const last = (end < length ? end : length) - 1n;
        for (let bit = Number(from / pageSize); bit <= Number(last / pageSize); bit++)
          bitmap[bit >>> 3] = (bitmap[bit >>> 3] as number) | (1 << (bit & 7));
      }),
    );
  }

  /** This thread writes, for a queue in memory of another process. */
  add(iova: number, bytes: number): void {
    if (bytes > 0) this.#written?.mark(iova, bytes);
  }

  #invalid(what: string, hint: string): SysError {
    const call = `VFIO_DEVICE_FEATURE_DMA_LOGGING_${what}`;
    return new SysError({ call, target: this.#name, errno: errno.EINVAL, hint });
  }
}

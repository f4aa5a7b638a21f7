import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DmaLoggingOps } from '../../vfio/driver.js';
import type { LogRange } from '../../vfio/feature.js';
import type { CardCommand } from './messages.js';
import { LOG_PAGE_BYTES, type Written, WrittenPages } from './written-pages.js';

const PAGE = BigInt(LOG_PAGE_BYTES);

/** The log of the pages that the card writes, by its engine in the event thread and in this one. Machine thread only. */
export class DmaLog implements DmaLoggingOps {
  readonly #name: string;
  readonly #call: (command: CardCommand) => unknown;
  #ranges: readonly LogRange[] = [];
  /** What this thread's half of the engine writes; absent while nothing is logged. */
  #written: WrittenPages | undefined;

  /** @param name of the device, for errors */
  constructor(name: string, call: (command: CardCommand) => unknown) {
    this.#name = name;
    this.#call = call;
  }

  /** @throws SysError EINVAL if it is on already, as in Linux's drivers */
  start(ranges: readonly LogRange[]): bigint {
    if (this.#written !== undefined) throw this.#invalid('START', 'its log is on already');
    this.#call({ kind: 'log', isOn: true });
    this.#written = new WrittenPages();
    this.#ranges = ranges;
    return PAGE;
  }

  stop(): void {
    if (this.#written === undefined) return;
    this.#written = undefined;
    this.#call({ kind: 'log', isOn: false });
  }

  /** @throws SysError EINVAL if it is off */
  readAndClear({ iova, length }: LogRange, pageSize: bigint, bitmap: Uint8Array): void {
    if (this.#written === undefined) throw this.#invalid('REPORT', 'its log is off');
    for (const range of this.#ranges) {
      const start = range.iova > iova ? range.iova : iova;
      const end = least(range.iova + range.length, iova + length);
      if (start >= end) continue;
      const [from, to] = [Number(start / PAGE), Number((end + PAGE - 1n) / PAGE)];
      const mark = (first: number, last: number): void => {
        // Bits of the bitmap's own pages, which may be larger or smaller than the log's.
        const at = (page: bigint) => Number((page < iova ? 0n : page - iova) / pageSize);
        const stop = least(BigInt(last) * PAGE, iova + length);
        for (let bit = at(BigInt(first) * PAGE); bit <= at(stop - 1n); bit++)
          bitmap[bit >>> 3] = (bitmap[bit >>> 3] as number) | (1 << (bit & 7));
      };
      for (const written of [this.#written.take(from, to), this.#takeRemote(from, to)]) {
        if (written === 'all') mark(from, to);
        else for (const page of written) mark(page, page + 1);
      }
    }
  }

  /** This thread writes. */
  add(iova: number, bytes: number): void {
    this.#written?.add(iova, bytes);
  }

  #takeRemote(from: number, end: number): Written {
    return this.#call({ kind: 'written', from, end }) as Written;
  }

  #invalid(what: string, hint: string): SysError {
    const call = `VFIO_DEVICE_FEATURE_DMA_LOGGING_${what}`;
    return new SysError({ call, target: this.#name, errno: errno.EINVAL, hint });
  }
}

const least = (a: bigint, b: bigint): bigint => (a < b ? a : b);

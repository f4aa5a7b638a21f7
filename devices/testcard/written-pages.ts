/** Page that writes are logged by, in bytes. */
export const LOG_PAGE_BYTES = 4096;
/** Pages that are remembered one by one, of 1 GiB. Beyond, every page counts as written until the log is started anew. */
const MOST_PAGES = 1 << 18;

/** Pages by number, or `all`. */
export type Written = readonly number[] | 'all';

/** Pages that a card's engine has written since they were last taken. One thread's. */
export class WrittenPages {
  readonly #pages = new Set<number>();
  readonly #mostPages: number;
  #areAll = false;

  constructor(mostPages = MOST_PAGES) {
    this.#mostPages = mostPages;
  }

  /** @param iova of the first byte; `bytes` are at least 1 */
  add(iova: number, bytes: number): void {
    if (this.#areAll) return;
    const last = Math.floor((iova + bytes - 1) / LOG_PAGE_BYTES);
    for (let page = Math.floor(iova / LOG_PAGE_BYTES); page <= last; page++) this.#pages.add(page);
    this.#areAll = this.#pages.size > this.#mostPages;
    if (this.#areAll) this.#pages.clear();
  }

  /** Pages from number `from` up to `end`, without it, which are then forgotten. */
  take(from: number, end: number): Written {
    if (this.#areAll) return 'all';
    const taken = [...this.#pages].filter((page) => page >= from && page < end);
    for (const page of taken) this.#pages.delete(page);
    return taken;
  }
}

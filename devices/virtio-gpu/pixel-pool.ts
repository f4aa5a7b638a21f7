import { createSharedMemory, type SharedMemory } from '../../sys/mapping.js';

const PAGE = 4096;
/** What a picture of as many bytes takes. */
export const wholePages = (bytes: number): number => Math.ceil(bytes / PAGE) * PAGE;

interface Extent {
  readonly at: number;
  readonly bytes: number;
}

/**
 * The memory of a card's pictures: a memfd, in which each picture has pages of its own. What is freed is zeroed, so that a new picture
 * shows nothing of an old one.
 */
export class PixelPool implements Disposable {
  /** The memory, for whoever maps it. */
  readonly memory: SharedMemory;
  /** All of it; valid until disposal. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Ascending, and none touches the next one. */
  #free: Extent[];

  /**
   * @param bytes a multiple of the page size
   * @param reserved bytes at its start that are never given, as well
   * @throws SysError ENOMEM
   */
  constructor(name: string, bytes: number, reserved = 0) {
    this.memory = createSharedMemory(name, reserved + bytes);
    this.bytes = this.memory.mapping.view.slice(0, reserved + bytes);
    this.#free = [{ at: reserved, bytes }];
  }

  /** Where a picture has its place now; undefined if there is no room for it. */
  allocate(bytes: number): number | undefined {
    const wanted = wholePages(bytes);
    const index = this.#free.findIndex((extent) => extent.bytes >= wanted);
    const extent = this.#free[index];
    if (extent === undefined || wanted === 0) return undefined;
    const rest = { at: extent.at + wanted, bytes: extent.bytes - wanted };
    this.#free.splice(index, 1, ...(rest.bytes > 0 ? [rest] : []));
    return extent.at;
  }

  /** Takes back what {@link allocate} has given for as many bytes. */
  release(at: number, given: number): void {
    let bytes = wholePages(given);
    this.bytes.fill(0, at, at + bytes);
    const next = this.#free.findIndex((extent) => extent.at > at);
    const index = next < 0 ? this.#free.length : next;
    const [before, after] = [this.#free[index - 1], this.#free[index]];
    const joinsBefore = before !== undefined && before.at + before.bytes === at;
    const joinsAfter = after !== undefined && at + bytes === after.at;
    if (joinsAfter) bytes += after.bytes;
    const start = joinsBefore ? before.at : at;
    if (joinsBefore) bytes += before.bytes;
    this.#free.splice(index - (joinsBefore ? 1 : 0), Number(joinsBefore) + Number(joinsAfter), {
      at: start,
      bytes,
    });
  }

  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
  }
}

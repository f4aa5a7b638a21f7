/** The guest's memory. Main thread: it is there before the machine's thread is, and goes after all threads have ended. */
import { setImmediate } from 'node:timers/promises';
import { PAGE_SIZE } from '../sys/address.js';
import type { Fd } from '../sys/fd.js';
import { createSharedMemory, Mapping, type MemoryView } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import { readMemory } from './snapshot/memory-file.js';

/** A guest's memory as numbers, for the machine thread. */
export interface GuestRamHandle {
  readonly address: number;
  readonly bytes: number;
  /** The memfd behind it, if other processes shall map it too. */
  readonly fd?: number;
}

/** How long other work of the main thread waits for memory that is being made. */
const SLICE_MS = 2;
/** Small enough that the clock is looked at often, should each of its pages have to be made. */
const STEP = 2 ** 21;
const PAGE_BYTES = Number(PAGE_SIZE);

export class GuestRam implements AsyncDisposable {
  readonly #mapping: Mapping;
  readonly #fd: Fd | undefined;
  readonly #scope: Scope;
  #populating: Promise<void> | undefined;
  /** Memory from here on is made. */
  #next: number;

  /**
   * @param isShared other processes shall map it too: it is a memfd's then, for which few hosts have transparent huge pages
   * @param hugePageBytes size of the huge pages to make it of, which takes a memfd; they are there when this returns
   * @throws SysError ENOMEM; with huge pages, as {@link createSharedMemory}
   */
  static create(bytes: bigint, isShared: boolean, hugePageBytes?: number): GuestRam {
    using scope = new Scope();
    if (isShared || hugePageBytes !== undefined) {
      const options = hugePageBytes === undefined ? {} : { hugePageBytes };
      const { mapping, fd } = scope.own(createSharedMemory('guest-ram', Number(bytes), options));
      const ram = new GuestRam(mapping, fd, scope.move());
      if (hugePageBytes !== undefined) ram.#populating = Promise.resolve(); // it is
      return ram;
    }
    return new GuestRam(scope.own(Mapping.huge(Number(bytes))), undefined, scope.move());
  }

  /**
   * Memory with the contents of a file: mapped, so that a page is read when it is touched, and stays this machine's once it is
   * written; copied if other processes shall map it too, or huge pages hold it.
   * @param file has exactly `bytes`, and is not truncated while the memory is there
   * @throws SysError as {@link create}; of read(2)
   */
  static restore(file: Fd, bytes: bigint, isShared: boolean, hugePageBytes?: number): GuestRam {
    if (!isShared && hugePageBytes === undefined) {
      using scope = new Scope();
      return new GuestRam(scope.own(Mapping.privateFile(file, Number(bytes))), undefined, scope.move());
    }
    const ram = GuestRam.create(bytes, isShared, hugePageBytes);
    try {
      readMemory(file, ram.#mapping.view);
      return ram;
    } catch (error) {
      ram.#scope[Symbol.dispose]();
      throw error;
    }
  }

  private constructor(mapping: Mapping, fd: Fd | undefined, scope: Scope) {
    this.#mapping = mapping;
    this.#fd = fd;
    this.#scope = scope;
    this.#next = mapping.bytes;
  }

  /** Do not use after dispose. */
  get view(): MemoryView {
    return this.#mapping.view;
  }

  get handle(): GuestRamHandle {
    const { address, bytes } = this.#mapping.view;
    return { address, bytes, ...(this.#fd === undefined ? {} : { fd: this.#fd.number }) };
  }

  /**
   * Begins to make all of its pages, and returns. Making 1 GiB of zeroed pages takes a fraction of a second. VFIO does it
   * when it maps the memory for DMA, upwards, and meets what is made here meanwhile, downwards. Atomics change nothing,
   * whatever the guest writes; a page that is touched is made without the lock that all other mapping needs (madvise
   * would hold it).
   */
  populate(): void {
    this.#populating ??= this.#populate();
  }

  async #populate(): Promise<void> {
    while (this.#next > 0) {
      const end = performance.now() + SLICE_MS;
      while (this.#next > 0 && performance.now() < end) this.#touch();
      await setImmediate();
    }
  }

  #touch(): void {
    const at = Math.max(0, this.#next - STEP);
    const bytes = this.#mapping.view.slice(at, this.#next - at);
    for (let page = 0; page < bytes.length; page += PAGE_BYTES) Atomics.or(bytes, page, 0);
    this.#next = at;
  }

  /** Unmaps it. No other thread may look at it any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#next = 0;
    await this.#populating;
    this.#scope[Symbol.dispose]();
  }
}

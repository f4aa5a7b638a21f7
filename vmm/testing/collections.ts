/** For tests: what a thread leaves to the garbage collector, counted in that thread. */
import { GCProfiler, getHeapStatistics } from 'node:v8';

export interface Garbage {
  /** Garbage collections of this thread. */
  readonly collections: number;
  /** What was allocated, collected or not. */
  readonly bytes: number;
}

/** Counts from its creation to {@link stop}. Nothing that it does itself meanwhile allocates. */
export class GarbageCount {
  readonly #profiler = new GCProfiler();
  readonly #before: number;

  constructor() {
    this.#profiler.start();
    this.#before = getHeapStatistics().used_heap_size;
  }

  stop(): Garbage {
    const now = getHeapStatistics().used_heap_size;
    const { statistics } = this.#profiler.stop();
    let bytes = 0;
    let used = this.#before;
    for (const { beforeGC, afterGC } of statistics) {
      bytes += beforeGC.heapStatistics.usedHeapSize - used;
      used = afterGC.heapStatistics.usedHeapSize;
    }
    return { collections: statistics.length, bytes: bytes + now - used };
  }
}

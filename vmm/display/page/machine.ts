import { History } from './history.js';
import { latest, type Readings, read } from './server.js';
import { TimelineRecord } from './timeline-record.js';

const READ_EVERY_MS = 1000;
/** The memory map takes milliseconds for each GiB to read, and seldom changes. */
const READ_MEMORY_EVERY_MS = 5000;

/** The machine by its API, as it was read last. */
export class Machine {
  readonly history = new History();
  readonly timeline = new TimelineRecord();
  readonly #changed: () => void;
  /** Undefined before they are read, and if the server has only pictures. */
  info: Readings['info'] | undefined;
  devices: Readings['devices'] | undefined;
  memory: Readings['memory'] | undefined;
  counters: Readings['counters'] | undefined;
  /** Of served devices, if they take events. */
  inputs: Readings['inputs'] | undefined;
  #memoryReadAt = Number.NEGATIVE_INFINITY;

  /** @param changed called when something was read */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** Reads until the machine has ended, and then once more. @param ended settles when the pictures have */
  async follow(ended: Promise<void>): Promise<void> {
    for (;;) {
      const info = await read('info');
      if (info === undefined) {
        this.inputs = await latest('inputs');
        this.#changed();
        return; // served devices
      }
      this.info = info;
      await this.#read(info.restarts);
      this.#changed();
      if (info.state === 'ended') return;
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, READ_EVERY_MS))]);
      await new Promise(requestAnimationFrame); // which does not come while the page is hidden
    }
  }

  async #read(restarts: number): Promise<void> {
    const isMemoryDue =
      this.info?.state === 'ended' || performance.now() - this.#memoryReadAt >= READ_MEMORY_EVERY_MS;
    const [devices, counters, memory] = await Promise.all([
      latest('devices'),
      latest('counters'),
      isMemoryDue ? latest('memory') : undefined,
      this.timeline.update(restarts),
    ]);
    if (memory !== undefined) this.#memoryReadAt = performance.now();
    this.devices = devices ?? this.devices;
    this.memory = memory ?? this.memory;
    this.counters = counters ?? this.counters;
    if (counters !== undefined) this.history.add(performance.now(), counters.accesses);
  }
}

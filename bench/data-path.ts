/** The data path alone: what the event thread does for batches of packets, with a driver in the same thread. */

import { responder } from '../devices/net/index.js';
import { arp, udp } from '../devices/net/testing/frames.js';
import { InlineEventThread } from '../devices/testing/inline-event-thread.js';
import { createVirtioNetDriver } from '../devices/virtio-net/driver.js';
import { createQueueTask } from '../devices/virtio-net/queue-task.js';
import { GuestDriver, GuestMemory } from '../devices/virtio-net/testing/guest.js';
import { signalEventfd } from '../sys/eventfd.js';
import { Scope } from '../sys/scope.js';
import { median, percentiles, type Rounds } from './measure.js';
import { percentileText, type Report } from './report.js';

const BATCHES = 20_000;
const IN_FLIGHT = [1, 32];
const BYTES = 64;
const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const BUFFER_BYTES = 2048;

/** A NIC whose event task runs in this thread, and its driver. */
class Bench implements Disposable {
  readonly #thread: InlineEventThread;
  readonly #driver: GuestDriver;
  readonly #doorbell: number;
  readonly #scope: Scope;

  constructor() {
    using scope = new Scope();
    const task = new URL('bench:queue-task');
    const tasks = new Map([[task.href, createQueueTask([responder])]]);
    this.#thread = scope.own(new InlineEventThread(tasks));
    const memory = scope.own(new GuestMemory());
    const vendor = createVirtioNetDriver({ backends: [responder], task });
    const uuid = 'f1d2c0de-0000-4000-8000-000000000001';
    const instance = scope.own(vendor.create(vendor.types[0]!, uuid, {}, { eventThread: this.#thread }));
    instance.ops.openDevice(memory.open);
    scope.defer(() => instance.ops.closeDevice());
    this.#driver = new GuestDriver(instance.ops, memory);
    this.#driver.start();
    this.#doorbell = instance.ops.getRegionIoFds?.(4)[1]?.fd as number;
    this.turn([arp()], () => this.#thread.pump());
    this.#scope = scope.move();
  }

  /** Gives the device these frames and as many buffers, has it work, and takes what it returns. */
  turn<T>(frames: readonly Uint8Array[], work: (thread: InlineEventThread) => T): T {
    for (const [i, each] of frames.entries()) {
      this.#driver.provide(RX_BUFFERS + BUFFER_BYTES * i);
      this.#driver.send(each, TX_BUFFERS + BUFFER_BYTES * i);
    }
    signalEventfd(this.#doorbell);
    const result = work(this.#thread);
    const returned = this.#driver.rx.reap().length;
    if (returned !== frames.length) throw new Error(`${returned} of ${frames.length} packets came back`);
    this.#driver.tx.reap();
    return result;
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

const framesOf = (inFlight: number) => Array.from({ length: inFlight }, () => udp(new Uint8Array(BYTES)));

function workNs(thread: InlineEventThread): number {
  const start = performance.now();
  thread.pump();
  return (performance.now() - start) * 1e6;
}

/** Nanoseconds per packet, either way, of each wake-up; and bytes of garbage, with so many in flight. */
function measure(inFlight: number): { each: number[]; garbage: number } {
  using bench = new Bench();
  const frames = framesOf(inFlight);
  const each: number[] = [];
  let garbage = 0;
  let counted = 0;
  for (let i = 0; i < BATCHES / inFlight; i++) {
    if (i % 16 !== 15) {
      each.push(bench.turn(frames, workNs) / (2 * inFlight));
      continue;
    }
    // Weighing allocates, too, and takes time.
    const grown = bench.turn(frames, (thread) => {
      const before = process.memoryUsage().heapUsed;
      thread.pump();
      return process.memoryUsage().heapUsed - before;
    });
    if (grown < 0) continue; // collected meanwhile
    garbage += grown;
    counted += 2 * inFlight;
  }
  return { each, garbage: garbage / counted };
}

const nameOf = (inFlight: number) => `UDP echo of ${BYTES} bytes, ${inFlight} at a time`;

export function dataPathRounds(scope: Scope): Rounds {
  return Object.fromEntries(
    IN_FLIGHT.map((inFlight) => {
      const bench = scope.own(new Bench());
      const frames = framesOf(inFlight);
      const round = () => {
        const turns = Array.from({ length: BATCHES / 16 / inFlight }, () => bench.turn(frames, workNs));
        return median(turns) / (2 * inFlight);
      };
      return [nameOf(inFlight), round];
    }),
  );
}

export async function dataPath(report: Report): Promise<void> {
  for (const inFlight of IN_FLIGHT) {
    const { each: times, garbage } = measure(inFlight);
    const each = percentiles(times);
    const name = nameOf(inFlight);
    report.line(`  ${name}: ${percentileText(each)}, and ${garbage.toFixed(0)} bytes of garbage a packet`);
    report.add({ benchmark: 'data-path', name, unit: 'ns', value: each.p50, each });
    report.add({ benchmark: 'data-path', name: `${name}, garbage`, unit: 'bytes', value: garbage });
  }
}

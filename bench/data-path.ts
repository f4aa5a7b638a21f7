/** The data path alone: what the event thread does for batches of packets, with a driver in the same thread. */

import { responder } from '../devices/net/index.js';
import { arp, udp } from '../devices/net/testing/frames.js';
import { InlineEventThread } from '../devices/testing/inline-event-thread.js';
import { createVirtioNetDriver } from '../devices/virtio-net/driver.js';
import { createQueueTask } from '../devices/virtio-net/queue-task.js';
import { GuestDriver, GuestMemory } from '../devices/virtio-net/testing/guest.js';
import { signalEventfd } from '../sys/eventfd.js';
import { Scope } from '../sys/scope.js';
import { median, microseconds } from './measure.js';

const BATCHES = 20_000;
const BYTES = 64;
const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const BUFFER_BYTES = 2048;

/** Nanoseconds and bytes of garbage per packet, either way, with so many in flight. */
function measure(inFlight: number): { ns: number; garbage: number } {
  using scope = new Scope();
  const task = new URL('bench:queue-task');
  const thread = scope.own(new InlineEventThread(new Map([[task.href, createQueueTask([responder])]])));
  const memory = scope.own(new GuestMemory());
  const vendor = createVirtioNetDriver({ backends: [responder], task });
  const uuid = 'f1d2c0de-0000-4000-8000-000000000001';
  const instance = scope.own(vendor.create(vendor.types[0]!, uuid, {}, { eventThread: thread }));
  instance.ops.openDevice(memory.open);
  scope.defer(() => instance.ops.closeDevice());
  const driver = new GuestDriver(instance.ops, memory);
  driver.start();
  const doorbell = instance.ops.getRegionIoFds?.(4)[1]?.fd as number;
  const frame = udp(new Uint8Array(BYTES));
  const turn = (frames: readonly Uint8Array[]): void => {
    for (const [i, each] of frames.entries()) {
      driver.provide(RX_BUFFERS + BUFFER_BYTES * i);
      driver.send(each, TX_BUFFERS + BUFFER_BYTES * i);
    }
    signalEventfd(doorbell);
  };
  turn([arp()]);
  thread.pump();
  driver.rx.reap();
  driver.tx.reap();
  const frames = Array.from({ length: inFlight }, () => frame);
  const times: number[] = [];
  let garbage = 0;
  let counted = 0;
  for (let i = 0; i < BATCHES / inFlight; i++) {
    turn(frames);
    const isWeighed = i % 16 === 15; // weighing allocates, too, and takes time
    const before = isWeighed ? process.memoryUsage().heapUsed : 0;
    const start = performance.now();
    thread.pump();
    const ns = (performance.now() - start) * 1e6;
    const grown = isWeighed ? process.memoryUsage().heapUsed - before : -1;
    if (!isWeighed) times.push(ns / (2 * inFlight));
    else if (grown >= 0) {
      garbage += grown;
      counted += 2 * inFlight;
    }
    const echoed = driver.rx.reap().length;
    if (echoed !== inFlight) throw new Error(`${echoed} of ${inFlight} packets came back`);
    driver.tx.reap();
  }
  return { ns: median(times), garbage: garbage / counted };
}

export async function dataPath(): Promise<void> {
  for (const inFlight of [1, 32]) {
    const { ns, garbage } = measure(inFlight);
    console.log(
      `  UDP echo of ${BYTES} bytes, ${inFlight} at a time: ${microseconds(ns)} and ${garbage.toFixed(0)} bytes of garbage a packet`,
    );
  }
}

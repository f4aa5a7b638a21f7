import { setTimeout } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { EventThreadClient, startEventThread } from '../../sys/event-thread.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { createInboxControl, Inbox } from '../../sys/inbox.js';
import * as libc from '../../sys/libc.js';
import { Scope } from '../../sys/scope.js';
import { openFds, threadCount } from '../../sys/testing/open-fds.js';
import { decode, icmpEcho } from '../net/testing/frames.js';
import { createVirtioNetDriver, type VirtioNetInstance } from './driver.js';
import { GuestDriver, GuestMemory } from './testing/guest.js';
import { PairedDriver, UNANSWERED } from './testing/paired-driver.js';

const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const MSIX_TRIGGER_EVENTFD = { index: 2, flags: 0x24, start: 0 } as const;
const POLLIN = 1;

/** Blocks until the eventfd is signalled; false after five seconds. */
function isSignalled(fd: Fd): boolean {
  const pollfd = new Int32Array([fd.number, POLLIN]);
  return libc.poll(new Uint8Array(pollfd.buffer), 1, 5000) === 1;
}

/** Gives the event thread time to do what it must not do. */
const pause = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);

interface Guest {
  readonly instance: VirtioNetInstance;
  readonly memory: GuestMemory;
  readonly driver: GuestDriver;
  /** Eventfds of the vectors. */
  readonly vectors: readonly Fd[];
  /** Of the notices to the registers. */
  readonly inbox: Inbox;
}

/** A device whose queues run in real event threads, with the responder on its wire. */
async function withGuest(
  use: (guest: Guest) => void,
  options: Readonly<Record<string, string>> = {},
  vectorCount = 3,
): Promise<void> {
  const before = openFds();
  const control = createInboxControl();
  const thread = startEventThread(control);
  try {
    using scope = new Scope();
    const inbox = new Inbox(control);
    const eventThread = new EventThreadClient(thread.link, inbox);
    const vendor = createVirtioNetDriver();
    const memory = scope.own(new GuestMemory());
    const vectors = Array.from({ length: vectorCount }, (_, i) => scope.own(Fd.eventfd(`vector ${i}`)));
    const instance = scope.own(vendor.create(vendor.types[0]!, 'uuid', options, { eventThread }));
    instance.ops.openDevice(memory.open);
    scope.defer(() => instance.ops.closeDevice());
    instance.ops.setIrqs({
      ...MSIX_TRIGGER_EVENTFD,
      count: vectorCount,
      data: vectors.map((fd) => fd.number),
    });
    use({ instance, memory, driver: new GuestDriver(instance.ops, memory), vectors, inbox });
  } finally {
    thread.stop();
    await thread.ended;
    // Node closes what it has opened for a pair's thread a moment after that has ended.
    for (let i = 0; i < 1000 && openFds().length > before.length; i++) await setTimeout(5);
  }
}

/** Fills both queues, and rings. */
function flood({ driver, instance }: Guest): void {
  const frame = icmpEcho(new Uint8Array(1000));
  for (let i = 0; i < 250; i++) driver.provide(RX_BUFFERS + 2048 * i);
  for (let i = 0; i < 250; i++) driver.send(frame, TX_BUFFERS + 2048 * (i % 32));
  signalEventfd(instance.ops.getRegionIoFds?.(4)[1]?.fd as number);
}

test('a ping goes through the event thread and comes back with an interrupt', async () => {
  await withGuest(({ driver, vectors, instance }) => {
    driver.start();
    driver.provide(RX_BUFFERS);
    driver.send(icmpEcho(new Uint8Array(56)), TX_BUFFERS);
    driver.ring(1);
    expect(isSignalled(vectors[1] as Fd)).toBe(true);
    const [used] = driver.rx.reap();
    expect(decode(driver.frame(RX_BUFFERS, used!)).body).toMatchObject({ kind: 'icmp', type: 0 });
    expect(instance.counters()).toMatchObject({ txPackets: 1, rxPackets: 1, doorbells: 1 });
  });
});

test('once a reset has returned, busy queues touch no memory', async () => {
  await withGuest((guest) => {
    const { driver, memory } = guest;
    for (let round = 0; round < 20; round++) {
      driver.start();
      drainEventfd(guest.vectors[2]!.number);
      flood(guest);
      if (round % 2 === 1) isSignalled(guest.vectors[2] as Fd);
      driver.status = 0;
      const before = memory.bytes.slice();
      pause();
      expect(Buffer.compare(memory.bytes, before)).toBe(0);
    }
  });
});

test('once an unmap has returned, busy queues do not touch that memory', async () => {
  await withGuest((guest) => {
    const { driver, memory } = guest;
    for (let round = 0; round < 20; round++) {
      driver.start();
      drainEventfd(guest.vectors[2]!.number);
      flood(guest);
      if (round % 2 === 1) isSignalled(guest.vectors[2] as Fd);
      memory.map([]);
      const before = memory.bytes.slice();
      pause();
      expect(Buffer.compare(memory.bytes, before)).toBe(0);
      driver.status = 0;
      memory.mapAll();
    }
  });
});

const eventThreads = (): number => threadCount('tsvisor-event');

const PAIRS = 3;
const RX_OF = (pair: number): number => RX_BUFFERS + 2048 * pair;

/** Asks for pairs, and serves the request as the machine's thread does. */
function setPairs({ inbox }: Guest, driver: PairedDriver, pairs: number): number {
  const read = driver.setPairs(pairs);
  for (let i = 0; i < 2500 && read() === UNANSWERED; i++) {
    pause();
    if (inbox.hasNews) inbox.drain();
  }
  return read();
}

test('each of several pairs has a thread, which answers a ping by itself, and ends with the device', async () => {
  await withGuest(
    (guest) => {
      const driver = new PairedDriver(guest.driver);
      expect(eventThreads()).toBe(1 + PAIRS);
      driver.start();
      expect(setPairs(guest, driver, PAIRS)).toBe(0);
      for (const pair of [2, 0, 1]) {
        driver.provide(pair, RX_OF(pair));
        driver.send(pair, icmpEcho(new Uint8Array(56).fill(pair)));
        expect(isSignalled(guest.vectors[1 + 2 * pair] as Fd)).toBe(true);
        const [used] = driver.rx[pair]?.reap() ?? [];
        expect(decode(guest.driver.frame(RX_OF(pair), used!)).body).toMatchObject({ kind: 'icmp', type: 0 });
      }
      expect(guest.instance.counters()).toMatchObject({ txPackets: PAIRS, rxPackets: PAIRS });
    },
    { queues: String(PAIRS) },
    2 * PAIRS + 2,
  );
  await expect.poll(eventThreads, { timeout: 10_000 }).toBe(0);
});

test('once a reset or an unmap has returned, no thread of busy pairs touches memory', async () => {
  const frame = icmpEcho(new Uint8Array(1000));
  await withGuest(
    (guest) => {
      const { memory } = guest;
      const driver = new PairedDriver(guest.driver);
      for (let round = 0; round < 10; round++) {
        driver.start();
        expect(setPairs(guest, driver, PAIRS)).toBe(0);
        for (let i = 0; i < 60; i++)
          for (let pair = 0; pair < PAIRS; pair++) {
            driver.provide(pair, RX_OF(pair));
            driver.send(pair, frame);
          }
        if (round % 2 === 0) guest.driver.status = 0;
        else memory.map([]);
        const before = memory.bytes.slice();
        pause();
        expect(Buffer.compare(memory.bytes, before)).toBe(0);
        guest.driver.status = 0;
        memory.mapAll();
      }
    },
    { queues: String(PAIRS) },
    2 * PAIRS + 2,
  );
});

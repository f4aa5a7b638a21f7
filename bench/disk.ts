/** A disk's queue, driven as a guest does it by a driver in the same thread, and the same accesses to the file in C. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { createVirtioBlkDriver } from '../devices/virtio-blk/driver.js';
import { start } from '../devices/virtio-blk/queue-task.js';
import { GuestDriver, GuestMemory, GuestQueue, maps, STATUS } from '../devices/virtio-net/testing/guest.js';
import { signalEventfd } from '../sys/eventfd.js';
import { InlineEventThread } from '../sys/inline-event-thread.js';
import { Scope } from '../sys/scope.js';
import { compileC, interleave, microseconds, type Rounds, scratchFolder } from './measure.js';
import type { Report } from './report.js';

const ROUNDS = 7;
const FILE_BYTES = 256 << 20;
const SMALL = 4096;
const LARGE = 1 << 20;
const IN_FLIGHT = [1, 32];
const COUNT = { [SMALL]: 8192, [LARGE]: 256 } as Readonly<Record<number, number>>;
/** Of the reads that the host has not in its cache. */
const COLD_COUNT = 2048;
const SECTOR = 512;
const [READ, WRITE, DESC_NEXT, DESC_WRITE] = [0, 1, 1, 2];

const RING = maps.main.iova;
const HEADERS = RING + 0x8000;
const STATUSES = RING + 0x9000;
/** All requests use the same: what they transfer does not matter. */
const DATA = RING + 0x10000;

/** Places as in disk-peer.c. */
class Places {
  #state: number;
  #next = 0;
  readonly #bytes: number;

  constructor(bytes: number, seed: number) {
    this.#bytes = bytes;
    this.#state = seed;
  }

  /** Sector of the next access. */
  next(): number {
    const places = FILE_BYTES / this.#bytes;
    if (this.#bytes !== SMALL) return ((this.#next++ % places) * this.#bytes) / SECTOR;
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return (((this.#state >>> 8) % places) * this.#bytes) / SECTOR;
  }
}

/** A disk whose event task runs in this thread, and its driver. */
class Bench implements Disposable {
  readonly #thread: InlineEventThread;
  readonly #memory: GuestMemory;
  readonly #queue: GuestQueue;
  readonly #doorbell: number;
  readonly #scope: Scope;

  constructor(file: string) {
    using scope = new Scope();
    const task = new URL('bench:disk-task');
    this.#thread = scope.own(new InlineEventThread(new Map([[task.href, start]])));
    this.#memory = scope.own(new GuestMemory());
    const vendor = createVirtioBlkDriver(task);
    const uuid = 'f1d2c0de-0000-4000-8000-000000000002';
    const environment = { eventThread: this.#thread };
    const instance = scope.own(vendor.create(vendor.types[0]!, uuid, { file }, environment));
    instance.ops.openDevice(this.#memory.open);
    scope.defer(() => instance.ops.closeDevice());
    const driver = new GuestDriver(instance.ops, this.#memory);
    driver.negotiate();
    this.#queue = new GuestQueue(this.#memory, 128, RING);
    driver.setUpQueue(0, this.#queue);
    driver.status |= STATUS.driverOk;
    this.#doorbell = instance.ops.getRegionIoFds?.(4)[0]?.fd as number;
    this.#scope = scope.move();
  }

  /** Nanoseconds per request, the driver's work excluded. */
  run(type: number, bytes: number, count: number, inFlight: number, places: Places): number {
    const { words } = this.#memory;
    const at = (address: number) => this.#memory.at(address);
    const data = type === READ ? DESC_WRITE : 0;
    for (let slot = 0; slot < inFlight; slot++) {
      const head = 3 * slot;
      const descriptor = (i: number, ...rest: [number, number, number, number]) =>
        this.#queue.writeDescriptor(this.#queue.desc + 16 * (head + i), ...rest);
      descriptor(0, HEADERS + 16 * slot, 16, DESC_NEXT, head + 1);
      descriptor(1, DATA, bytes, DESC_NEXT | data, head + 2);
      descriptor(2, STATUSES + slot, 1, DESC_WRITE, 0);
      words.setUint32(at(HEADERS + 16 * slot), type, true);
    }
    let offered = 0;
    const offer = (head: number): void => {
      if (offered++ >= count) return;
      words.setUint32(at(HEADERS + (16 * head) / 3 + 8), places.next(), true);
      this.#queue.offer(head);
    };
    for (let slot = 0; slot < inFlight; slot++) offer(3 * slot);
    let spent = 0;
    for (let done = 0; done < count; ) {
      signalEventfd(this.#doorbell);
      const begun = performance.now();
      this.#thread.pump();
      spent += performance.now() - begun;
      for (const { id } of this.#queue.reap()) {
        if (words.getUint8(at(STATUSES + id / 3)) !== 0) throw new Error('a request failed');
        done++;
        offer(id);
      }
    }
    return (spent * 1e6) / count;
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

function makeFile(path: string): void {
  const fd = openSync(path, 'w');
  const piece = Buffer.alloc(LARGE, 7);
  for (let at = 0; at < FILE_BYTES; at += LARGE) writeSync(fd, piece, 0, LARGE, at);
  closeSync(fd);
}

const nameOf = (type: number, bytes: number) =>
  `${type === READ ? 'read' : 'write'} ${bytes === SMALL ? '4 KiB, anywhere' : '1 MiB, in order'}`;

/** The queue alone, of what the host has in its cache. */
export function diskRounds(scope: Scope): Rounds {
  const folder = scope.own(scratchFolder());
  const file = join(folder.path, 'disk.raw');
  makeFile(file);
  const bench = scope.own(new Bench(file));
  const rounds: Record<string, () => number> = {};
  for (const type of [READ, WRITE]) {
    for (const bytes of [SMALL, LARGE]) {
      for (const inFlight of IN_FLIGHT) {
        rounds[`${nameOf(type, bytes)}, ${inFlight} in flight`] = () =>
          bench.run(type, bytes, COUNT[bytes] as number, inFlight, new Places(bytes, 1));
      }
    }
  }
  return rounds;
}

export async function disk(report: Report): Promise<void> {
  using folder = scratchFolder();
  const peer = compileC('disk-peer', folder.path);
  const file = join(folder.path, 'disk.raw');
  makeFile(file);
  const inC = (type: number, bytes: number, count: number, seed: number): number => {
    const args = [file, type === READ ? 'read' : 'write', `${bytes}`, `${count}`, `${seed}`];
    return Number(execFileSync(peer, args, { encoding: 'utf8' }));
  };
  const ours = (type: number, bytes: number, count: number, inFlight: number, seed: number): number => {
    using bench = new Bench(file); // its lock would keep the next one out
    return bench.run(type, bytes, count, inFlight, new Places(bytes, seed));
  };
  const compare = async (name: string, contenders: Rounds): Promise<void> => {
    const { C = Number.NaN, ...others } = await interleave(ROUNDS, contenders);
    report.add({ benchmark: 'disk', name: `${name}, C`, unit: 'ns', value: C });
    const texts = Object.entries(others).map(([who, value]) => {
      const ratio = { to: `${name}, C`, value: value / C };
      report.add({ benchmark: 'disk', name: `${name}, ${who}`, unit: 'ns', value, ratio });
      return `${who} ${microseconds(value)} (${ratio.value.toFixed(2)} x)`;
    });
    report.line(`  ${name}: C ${microseconds(C)}, ${texts.join(', ')}`);
  };
  for (const type of [READ, WRITE]) {
    for (const bytes of [SMALL, LARGE]) {
      const count = COUNT[bytes] as number;
      await compare(nameOf(type, bytes), {
        C: () => inC(type, bytes, count, 1),
        ...Object.fromEntries(IN_FLIGHT.map((n) => [`${n} in flight`, () => ours(type, bytes, count, n, 1)])),
      });
    }
  }
  // Other places each time, as the host may keep more than it is told to.
  let seed = 1;
  const dropped = (measure: (seed: number) => number) => () => {
    execFileSync(peer, [file, 'drop']);
    return measure(++seed);
  };
  await compare('read 4 KiB, anywhere, not in the cache', {
    C: dropped((places) => inC(READ, SMALL, COLD_COUNT, places)),
    ...Object.fromEntries(
      IN_FLIGHT.map((n) => [`${n} in flight`, dropped((places) => ours(READ, SMALL, COLD_COUNT, n, places))]),
    ),
  });
}

/** The data path alone: what the event thread does for batches of packets, with a driver in the same thread. */
import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { responder, tap } from '../devices/net/index.js';
import { arp, icmpEcho, udp } from '../devices/net/testing/frames.js';
import { createVirtioNetDriver } from '../devices/virtio-net/driver.js';
import { createQueueTask } from '../devices/virtio-net/queue-task.js';
import { GuestDriver, GuestMemory } from '../devices/virtio-net/testing/guest.js';
import { signalEventfd } from '../sys/eventfd.js';
import { InlineEventThread } from '../sys/inline-event-thread.js';
import { Scope } from '../sys/scope.js';
import { median, percentiles, type Rounds } from './measure.js';
import { type Figure, percentileText, type Report } from './report.js';

const BATCHES = 20_000;
const IN_FLIGHT = [1, 32];
const BYTES = 64;
const RX_BUFFERS = 0x20_0000;
const TX_BUFFERS = 0x18_0000;
const BUFFER_BYTES = 2048;

/** Who answers the guest's packets. */
interface Peer {
  readonly net: string;
  readonly name: string;
  readonly frame: Uint8Array;
  /** The peer answers this one, too. */
  readonly first: Uint8Array;
  /** Called while the port is open, before the first frame. */
  readonly setUp?: () => void;
}

const echo: Peer = {
  net: 'responder',
  name: `UDP echo of ${BYTES} bytes`,
  frame: udp(new Uint8Array(BYTES)),
  first: arp(),
};

const TAP = 'tsvisor0';
const WIRE = {
  source: '10.9.0.2',
  destination: '10.9.0.1',
  to: '02:00:0a:09:00:01',
  from: '52:54:00:12:34:56',
};
const ping = icmpEcho(new Uint8Array(BYTES), WIRE);
/** The kernel answers a ping before the write that sends it returns. */
const kernel: Peer = {
  net: `tap:${TAP}`,
  name: `ping of ${BYTES} bytes over a TAP, the host's work included`,
  frame: ping,
  first: ping,
  setUp() {
    const ip = (words: string) => execFileSync('ip', words.split(' '));
    writeFileSync(`/proc/sys/net/ipv6/conf/${TAP}/disable_ipv6`, '1'); // it sends frames unasked
    ip(`address add ${WIRE.destination}/24 dev ${TAP}`);
    ip(`link set ${TAP} address ${WIRE.to} up`);
    ip(`neighbour replace ${WIRE.source} lladdr ${WIRE.from} dev ${TAP} nud permanent`);
  },
};

/** A NIC whose event task runs in this thread, and its driver. */
class Bench implements Disposable {
  readonly #thread: InlineEventThread;
  readonly #driver: GuestDriver;
  readonly #doorbell: number;
  readonly #scope: Scope;

  constructor({ net, first, setUp }: Peer) {
    using scope = new Scope();
    const task = new URL('bench:queue-task');
    const tasks = new Map([[task.href, createQueueTask([responder, tap])]]);
    this.#thread = scope.own(new InlineEventThread(tasks));
    const memory = scope.own(new GuestMemory());
    const vendor = createVirtioNetDriver({ backends: [responder, tap], task });
    const uuid = 'f1d2c0de-0000-4000-8000-000000000001';
    const instance = scope.own(vendor.create(vendor.types[0]!, uuid, { net }, { eventThread: this.#thread }));
    setUp?.();
    instance.ops.openDevice(memory.open);
    scope.defer(() => instance.ops.closeDevice());
    this.#driver = new GuestDriver(instance.ops, memory);
    this.#driver.start();
    this.#doorbell = instance.ops.getRegionIoFds?.(4)[1]?.fd as number;
    this.turn([first], () => this.#thread.pump());
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

const framesOf = ({ frame }: Peer, inFlight: number) => Array.from({ length: inFlight }, () => frame);

function workNs(thread: InlineEventThread): number {
  const start = performance.now();
  thread.pump();
  return (performance.now() - start) * 1e6;
}

/** Bytes that the heap grows by; negative if it is collected meanwhile. */
function weigh(work: () => void): number {
  const before = process.memoryUsage().heapUsed;
  work();
  return process.memoryUsage().heapUsed - before;
}

/** Nanoseconds per packet, either way, of each wake-up; and bytes of garbage, with so many in flight. */
function measure(peer: Peer, inFlight: number): { each: number[]; garbage: number } {
  using bench = new Bench(peer);
  const frames = framesOf(peer, inFlight);
  const each: number[] = [];
  const weights: number[] = [];
  for (let i = 0; i < BATCHES / inFlight; i++) {
    if (i % 16 !== 15) {
      each.push(bench.turn(frames, workNs) / (2 * inFlight));
      continue;
    }
    // Weighing takes time, and allocates, too.
    const grown = bench.turn(frames, (thread) => weigh(() => thread.pump()));
    const own = weigh(() => {});
    if (grown >= 0 && own >= 0) weights.push((grown - own) / (2 * inFlight));
  }
  return { each, garbage: median(weights) };
}

const nameOf = ({ name }: Peer, inFlight: number) => `${name}, ${inFlight} at a time`;

export function dataPathRounds(scope: Scope): Rounds {
  return Object.fromEntries(
    IN_FLIGHT.map((inFlight) => {
      const bench = scope.own(new Bench(echo));
      const frames = framesOf(echo, inFlight);
      const round = () => {
        const turns = Array.from({ length: BATCHES / 16 / inFlight }, () => bench.turn(frames, workNs));
        return median(turns) / (2 * inFlight);
      };
      return [nameOf(echo, inFlight), round];
    }),
  );
}

const INSIDE = 'TSVISOR_BENCH_NETNS';

/** The figures with a TAP, from a process in a network namespace of its own; undefined where that cannot be. */
function figuresInNamespace(): readonly Figure[] | undefined {
  const args = ['--net', process.execPath, process.argv[1] as string, '--json', '-', 'data-path'];
  const { status, stdout } = spawnSync('unshare', args, {
    env: { ...process.env, [INSIDE]: '1' },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return status === 0 ? (JSON.parse(stdout) as { figures: Figure[] }).figures : undefined;
}

function figuresOf(peer: Peer): readonly Figure[] {
  return IN_FLIGHT.flatMap((inFlight) => {
    const { each: times, garbage } = measure(peer, inFlight);
    const each = percentiles(times);
    const name = nameOf(peer, inFlight);
    return [
      { benchmark: 'data-path', name, unit: 'ns', value: each.p50, each },
      { benchmark: 'data-path', name: `${name}, garbage`, unit: 'bytes', value: garbage },
    ];
  });
}

export async function dataPath(report: Report): Promise<void> {
  const isInside = process.env[INSIDE] !== undefined;
  const add = (figures: readonly Figure[]): void => {
    for (const figure of figures) {
      const { name, value, each } = figure;
      report.add(figure);
      report.line(`  ${name}: ${each ? percentileText(each) : `${value.toFixed(0)} bytes`} a packet`);
    }
  };
  add(figuresOf(isInside ? kernel : echo));
  if (isInside) return;
  const figures = figuresInNamespace();
  if (figures === undefined) report.line('  over a TAP: needs root, unshare, ip and /dev/net/tun');
  else add(figures);
}

/** Debian's DPDK in L1 drives a served NIC through the kernel's vfio-pci, with its own virtio driver. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { arp, decode, icmpEcho } from '../devices/net/testing/frames.js';
import { framesOf, writeCapture } from './capture.js';
import { testpmdInL1 } from './dpdk.js';
import { until } from './host-card.js';

const { LAB_WIRE: NIC = '' } = process.env;
/** What the NIC's server captures: each frame from DPDK, and each to it. */
const WIRE = '/run/lab/nic.pcap';
const [SENT, GOT] = ['/run/sent.pcap', '/run/got.pcap'];
const TIMEOUT_MS = 120_000;
/** In which testpmd has started, and moved all. */
const START_MS = 60_000;
/** Of txonly's frames, with the capture's header. */
const FRAME_BYTES = 64 + 16;
/** In a frame: what the other end sends back, up to its end. */
const ICMP_ID_AT = 14 + 20 + 4;

beforeAll(() => {
  if (NIC === '') return;
  writeFileSync('/proc/sys/vm/nr_hugepages', '64');
  execFileSync('vfio-load');
  execFileSync('vfio-bind', [NIC]);
});
afterAll(() => {
  if (NIC !== '') execFileSync('vfio-unbind', [NIC]);
});

/** How DPDK has its memory, all of which it maps for DMA. */
const MEMORY = { 'huge pages': ['--in-memory', '-m', '64'], 'small pages': ['--no-huge', '-m', '64'] };

interface PortCounts {
  readonly rx: number;
  readonly tx: number;
  readonly errors: number;
}

/** dpdk-testpmd, with the NIC. */
class Testpmd implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown[]>;
  #output = '';

  /** @param more further arguments of EAL */
  constructor(memory: readonly string[], more: readonly string[] = []) {
    const eal = ['--no-telemetry', '--iova-mode=va', '-l', '0,1', '-a', NIC, ...memory, ...more];
    const [program = '', ...args] = [
      ...testpmdInL1,
      ...eal,
      '--',
      '-i',
      '--no-flush-rx',
      '--total-num-mbufs=2048',
    ];
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#ended = once(this.#child, 'close');
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (bytes) => {
        this.#output += String(bytes);
      });
  }

  /** Gives it commands, whose output comes with its end: it is no terminal. */
  type(...lines: readonly string[]): void {
    this.#child.stdin?.write(lines.map((line) => `${line}\n`).join(''));
  }

  /** Ends it. Returns what it has printed. @throws Error unless it ends with 0 */
  async quit(): Promise<string> {
    this.type('show port summary all', 'show port stats all', 'quit');
    const [status] = await this.#ended;
    if (status !== 0) throw new Error(`testpmd ended with ${status}:\n${this.#output}`);
    return this.#output;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

/** Counters of the port whose device has a name. */
function countsOf(output: string, name: string): PortCounts {
  const port = new RegExp(`^(\\d+) +[0-9A-F:]{17} +${name} `, 'm').exec(output)?.[1];
  const [, text = ''] = output.split(`NIC statistics for port ${port} `);
  const count = (what: string) => Number(new RegExp(`${what}: +(\\d+)`).exec(text)?.[1]);
  const errors = count('RX-missed') + count('RX-errors') + count('TX-errors');
  return { rx: count('RX-packets'), tx: count('TX-packets'), errors };
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
/** Type and contents of an ICMP message: as text, which compares fast in software emulation. */
const textOf = (body: ReturnType<typeof decode>['body']): string =>
  body.kind === 'icmp' ? `${body.type} ${hex(body.rest)}` : body.kind;

const inAnyOrder = (frames: readonly Uint8Array[]): string => frames.map(hex).sort().join('\n');

const requests = (count: number): Uint8Array[] => [
  arp(),
  ...Array.from({ length: count }, (_, i) =>
    icmpEcho(new Uint8Array(8 + 5 * i).fill(i), { id: 0xd9d4, sequence: i }),
  ),
];

describe.skipIf(NIC === '').each(Object.entries(MEMORY))('DPDK with %s', (_which, memory) => {
  test('finds the NIC through vfio-pci, and forwards 200 pings and their answers', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const count = 200;
    const asked = requests(count);
    writeCapture(SENT, asked);
    const before = framesOf(WIRE).length;
    await using testpmd = new Testpmd(memory, ['--vdev', `net_pcap0,rx_pcap=${SENT},tx_pcap=${GOT}`]);
    testpmd.type('set fwd io', 'start');
    await until('all is answered', () => framesOf(WIRE).length >= before + 2 * asked.length, START_MS);
    testpmd.type('stop');
    const output = await testpmd.quit();
    expect(output).toMatch(new RegExp(`Probe PCI driver: net_virtio \\(1af4:1041\\) device: ${NIC}`));
    expect(output).toContain('Using IOMMU type 1 (Type 1)');
    const all = { rx: asked.length, tx: asked.length, errors: 0 };
    expect([countsOf(output, NIC), countsOf(output, 'net_pcap0')]).toEqual([all, all]);
    const got = framesOf(GOT);
    // The order in which the server captures the two directions is its own.
    expect(inAnyOrder(framesOf(WIRE).slice(before))).toBe(inAnyOrder([...asked, ...got]));
    const [answer, ...pongs] = got.map((frame) => decode(frame).body);
    expect(answer).toMatchObject({ kind: 'arp', operation: 2 });
    expect(pongs.map(textOf)).toEqual(asked.slice(1).map((request) => `0 ${hex(request.slice(ICMP_ID_AT))}`));
  });

  test('sends as many frames as the server receives', { timeout: TIMEOUT_MS }, async () => {
    const before = framesOf(WIRE).length;
    const { size } = statSync(WIRE);
    await using testpmd = new Testpmd(memory);
    testpmd.type('set fwd txonly', 'start');
    await until(
      '10,000 frames are there',
      () => statSync(WIRE).size >= size + 10_000 * FRAME_BYTES,
      START_MS,
    );
    testpmd.type('stop');
    // It has sent what it counts as sent, but the server may not have captured it.
    for (let last = -1; statSync(WIRE).size !== last; await sleep(1000)) last = statSync(WIRE).size;
    const { tx, rx, errors } = countsOf(await testpmd.quit(), NIC);
    expect([tx, rx, errors]).toEqual([framesOf(WIRE).length - before, 0, 0]);
  });
});

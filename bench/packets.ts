/** The data path: from doorbell to interrupt, and packets to the responder and back. */
import { readdirSync, readFileSync } from 'node:fs';
import { VirtualMachine } from '../vmm/virtual-machine.js';
import { median, microseconds, type Percentiles, percentiles, type Rounds } from './measure.js';
import { percentileText, type Report } from './report.js';

const ROUNDS = 5;
const DOORBELLS = 500;
const DATAGRAMS = 1000;
const BYTES = 64;
const TRAFFIC_BEGINS = 0x50;
const TRAFFIC_ENDS = 0x60;

/** CPU time of the event thread in nanoseconds. */
function eventThreadNs(): number {
  for (const tid of readdirSync('/proc/self/task')) {
    if (readFileSync(`/proc/self/task/${tid}/comm`, 'utf8').trim() !== 'tsvisor-event') continue;
    return Number(readFileSync(`/proc/self/task/${tid}/schedstat`, 'utf8').split(' ')[0]);
  }
  throw new Error('there is no event thread');
}

interface Run {
  /** The guest's output. */
  readonly text: string;
  /** CPU time of the event thread during the guest's traffic phase. */
  readonly hostNs: number;
}

async function runGuest(words: string): Promise<Run> {
  const pieces: string[] = [];
  const at: Record<number, number> = {};
  const decoder = new TextDecoder();
  await using vm = VirtualMachine.start(
    {
      cmdline: `quiet pings=1 ${words}`,
      devices: [{ address: 'virtio-net', options: { net: 'responder' } }],
    },
    {
      serial: (bytes) => pieces.push(decoder.decode(bytes)),
      phase: ({ code }) => {
        if (code === TRAFFIC_BEGINS || code === TRAFFIC_ENDS) at[code] = eventThreadNs();
      },
    },
  );
  const { outcome } = await vm.finished;
  const text = pieces.join('');
  if (outcome.kind !== 'verdict' || outcome.status !== 0) throw new Error(`the guest failed: ${text}`);
  return { text, hostNs: (at[TRAFFIC_ENDS] ?? Number.NaN) - (at[TRAFFIC_BEGINS] ?? Number.NaN) };
}

function numberIn(text: string, pattern: RegExp): number {
  const match = pattern.exec(text);
  if (match === null) throw new Error(`the guest did not print ${pattern}: ${text}`);
  return Number(match[1]);
}

/** What the guest measured of each operation, in nanoseconds. */
function eachIn(text: string, what: string): number[] {
  const lines = [...text.matchAll(new RegExp(`^${what}, ns each:(.*)$`, 'gm'))];
  return lines.flatMap(([, values = '']) => values.trim().split(' ').map(Number));
}

const echo = (inFlight: number, more = '') => runGuest(`udp=${DATAGRAMS},${BYTES},${inFlight}${more}`);
const hostNsOf = ({ hostNs }: Run) => hostNs / (2 * DATAGRAMS);
const hostName = (inFlight: number) =>
  `the event thread's time for a UDP packet of ${BYTES} bytes, ${inFlight} in flight`;

export const packetsRounds = (): Rounds =>
  Object.fromEntries(
    [1, 32].map((inFlight) => [hostName(inFlight), async () => hostNsOf(await echo(inFlight))]),
  );

/** Prints both. The host's share is printed separately, because the guest's is large where KVM emulates its code. */
export async function packets(report: Report): Promise<void> {
  const doorbells: number[] = [];
  const echoes: number[] = [];
  const rates: number[] = [];
  const hostNs: Record<number, number[]> = { 1: [], 32: [] };
  for (let round = 0; round < ROUNDS; round++) {
    doorbells.push(...eachIn((await runGuest(`doorbell=${DOORBELLS} samples`)).text, 'doorbell'));
    const one = await echo(1, ' samples');
    echoes.push(...eachIn(one.text, 'udp'));
    rates.push(numberIn(one.text, /us, (\d+) packets\/s/));
    hostNs[1]?.push(hostNsOf(one));
    hostNs[32]?.push(hostNsOf(await echo(32)));
  }
  const add = (name: string, unit: string, value: number, each?: Percentiles) =>
    report.add({ benchmark: 'packets', name, unit, value, ...(each && { each }) });
  for (const [name, times] of [
    ['doorbell to transmit interrupt, as the guest sees it', doorbells],
    [`UDP round trip of ${BYTES} bytes, one in flight, as the guest sees it`, echoes],
  ] as const) {
    const each = percentiles(times);
    report.line(`  ${name}: ${percentileText(each)}`);
    add(name, 'ns', each.p50, each);
  }
  report.line(`  the same: ${median(rates)} packets/s`);
  add('UDP round trips, one in flight', 'packets/s', median(rates));
  for (const inFlight of [1, 32]) {
    const value = median(hostNs[inFlight] ?? []);
    report.line(`  ${hostName(inFlight)}: ${microseconds(value)}`);
    add(hostName(inFlight), 'ns', value);
  }
}

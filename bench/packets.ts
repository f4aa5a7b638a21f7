/** The data path: from doorbell to interrupt, and packets to the responder and back. */
import { readdirSync, readFileSync } from 'node:fs';
import { VirtualMachine } from '../vmm/virtual-machine.js';
import { median, microseconds } from './measure.js';

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

async function medianOf(measure: () => Promise<number>): Promise<number> {
  const values: number[] = [];
  for (let i = 0; i < ROUNDS; i++) values.push(await measure());
  return median(values);
}

/** Prints both. The host's share is printed separately, because the guest's is large where KVM emulates its code. */
export async function packets(): Promise<void> {
  const roundTrip = await medianOf(async () => {
    const { text } = await runGuest(`doorbell=${DOORBELLS}`);
    return numberIn(text, /cycles each \((\d+) us\)/);
  });
  console.log(
    `  doorbell to transmit interrupt, as the guest sees it: ${roundTrip} us (median of ${ROUNDS})`,
  );
  const rates: number[] = [];
  const hostNs = await medianOf(async () => {
    const { text, hostNs } = await runGuest(`udp=${DATAGRAMS},${BYTES},1`);
    rates.push(numberIn(text, /us, (\d+) packets\/s/));
    return hostNs / (2 * DATAGRAMS);
  });
  console.log(
    `  UDP ping-pong of ${BYTES} bytes, one in flight: ${median(rates)} packets/s; ` +
      `the host's event thread spends ${microseconds(hostNs)} a packet`,
  );
  const busyNs = await medianOf(
    async () => (await runGuest(`udp=${DATAGRAMS},${BYTES},32`)).hostNs / (2 * DATAGRAMS),
  );
  console.log(`  the same with 32 in flight: ${microseconds(busyNs)} of host time a packet`);
}

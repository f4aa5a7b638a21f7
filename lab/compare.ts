import { cells } from './cells.js';
import { bootCommand, bootForGuests, type Vmm } from './guests.js';
import type { L1 } from './l1.js';
import { l2CommandLine, parseL2Results } from './l2.js';

const ROUNDS = 3;
const CELL = 'e1000e MSI-X';
const FETCH_BYTES = 32 << 20;
const TIMEOUT_MS = 120_000;

/** What one boot of L2 was like. */
interface Figures {
  /** Seconds from the start of the VMM to the guest's first program. */
  readonly userspace: number;
  /** Seconds from there to the VMM's end. */
  readonly rest: number;
  /** MiB/s of a file fetched over the NIC. */
  readonly fetch: number;
  /** MiB resident at most; the guest's memory, which is locked, is in it. */
  readonly resident: number;
}

const units: Readonly<Record<keyof Figures, string>> = {
  userspace: 's',
  rest: 's',
  fetch: 'MiB/s',
  resident: 'MiB',
};

/** Bash: runs a VMM and remembers the most memory that it had. */
const watched = (boot: string): string => `
  ( exec ${boot} ) & vmm=$!
  while [ -d /proc/$vmm ]; do grep VmHWM /proc/$vmm/status > /run/now 2>/dev/null && mv /run/now /run/most; sleep 0.3; done
  wait $vmm; cat /run/most`;

async function measure(l1: L1, vmm: Vmm, url: string): Promise<Figures> {
  const cell = cells.find(({ name }) => name === CELL);
  if (cell === undefined) throw new Error(`no cell ${CELL}`);
  const line = l2CommandLine({ checks: ['dhcp', 'fetch'], url, fetchBytes: FETCH_BYTES });
  const attached = await l1.run(cell.attach);
  if (attached.status !== 0) throw new Error(attached.output);
  const start = performance.now();
  let userspaceAt = Number.NaN;
  let seen = '';
  const { output } = await l1.run(`devices=$LAB_E1000E; ${watched(bootCommand(vmm, 'group', line, 1))}`, {
    timeoutMs: TIMEOUT_MS,
    onOutput: (bytes) => {
      seen += Buffer.from(bytes).toString('latin1');
      if (Number.isNaN(userspaceAt) && seen.includes('L2-USERSPACE')) userspaceAt = performance.now();
    },
  });
  const end = performance.now();
  if (!parseL2Results(output).get('fetch.eth0'))
    throw new Error(`${vmm}: L2 did not fetch its file\n${output}`);
  const [, bytes, from, to] = /L2-FETCHED \S+ (\d+) bytes, ([\d.]+) to ([\d.]+) s/.exec(output) ?? [];
  const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(output) ?? [];
  return {
    userspace: (userspaceAt - start) / 1000,
    rest: (end - userspaceAt) / 1000,
    fetch: Number(bytes) / 2 ** 20 / (Number(to) - Number(from)),
    resident: Number(kilobytes) / 1024,
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] as number;
}

/**
 * tsvisor beside Debian's QEMU: same L1, kernel, initramfs and NIC, in turn, and prints the medians and their ratio.
 * The absolute times are those of software emulation.
 */
export async function compare(): Promise<void> {
  const { l1, url } = await bootForGuests();
  await using _l1 = l1;
  const figures: Record<Vmm, Figures[]> = { tsvisor: [], qemu: [] };
  for (let round = 0; round < ROUNDS; round++) {
    for (const vmm of ['tsvisor', 'qemu'] as const) figures[vmm].push(await measure(l1, vmm, url));
  }
  const rows = Object.entries(units).map(([name, unit]) => {
    const of = (vmm: Vmm) => median(figures[vmm].map((each) => each[name as keyof Figures]));
    const [ours, theirs] = [of('tsvisor'), of('qemu')];
    const text = (value: number) => `${value.toFixed(1)} ${unit}`;
    return [
      name,
      { tsvisor: text(ours), 'QEMU q35': text(theirs), ratio: (ours / theirs).toFixed(2) },
    ] as const;
  });
  console.table(Object.fromEntries(rows));
}

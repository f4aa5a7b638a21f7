import { parseAttachTimes } from './attach-times.js';
import { type GuestL1, GuestLab } from './guest-lab.js';
import { type BootOptions, bootCommand, type Vmm } from './guests.js';
import type { L1 } from './l1.js';
import { l2CommandLine, parseL2Results } from './l2.js';

const ROUNDS = 3;
const FETCH_BYTES = 32 << 20;
const TIMEOUT_MS = 120_000;
/** The largest guest's memory is locked in L1, in addition to everything else there. */
const L1_MEMORY = 3072;
const SMALL_MIB = 256;
const LARGE_MIB = 1024;

/** The VMMs to compare; the first is compared with each of the others. */
const contestants: readonly { readonly name: string; readonly vmm: Vmm; readonly machine?: string }[] = [
  { name: 'tsvisor', vmm: 'tsvisor' },
  { name: 'QEMU q35', vmm: 'qemu' },
  { name: 'QEMU microvm', vmm: 'qemu', machine: 'microvm,pcie=on,rtc=on' },
];

const rows = {
  userspace: 'start of the program to the guest’s first program, s',
  attach: `attach, ${SMALL_MIB} MiB of memory mapped within, s`,
  mapSmall: `DMA map of ${SMALL_MIB} MiB, s`,
  mapLarge: `DMA map of ${LARGE_MIB} MiB, s`,
  fetch: `${FETCH_BYTES >> 20} MiB fetched over the NIC, MiB/s`,
  resident: `resident memory, the guest’s ${SMALL_MIB} MiB in it, MiB`,
} as const;
type Figures = Record<keyof typeof rows, number>;

/** Bash that runs a VMM and records its peak memory. */
const watched = (boot: string): string => `
  ( exec ${boot} ) & vmm=$!
  while [ -d /proc/$vmm ]; do grep VmHWM /proc/$vmm/status > /run/now 2>/dev/null && mv /run/now /run/most; sleep 0.3; done
  wait $vmm; cat /run/most`;

/** One VMM in L1. */
class Bench {
  readonly #l1: L1;
  readonly #url: string;
  readonly #vmm: Vmm;
  readonly #options: BootOptions;

  constructor({ l1, url }: GuestL1, { vmm, machine }: (typeof contestants)[number]) {
    this.#l1 = l1;
    this.#url = url;
    this.#vmm = vmm;
    this.#options = machine === undefined ? {} : { machine };
  }

  async measure(): Promise<Figures> {
    const small = await this.#attachTimes(SMALL_MIB);
    const large = await this.#attachTimes(LARGE_MIB);
    const run = await this.#fetch();
    return { ...run, attach: small.attach, mapSmall: small.map, mapLarge: large.map };
  }

  #boot(line: string, memory: number): string {
    return bootCommand(this.#vmm, 'group', line, { ...this.#options, memory });
  }

  async #attachTimes(memory: number): Promise<ReturnType<typeof parseAttachTimes>> {
    const boot = this.#boot(l2CommandLine({ checks: [] }), memory);
    const { output } = await this.#l1.run(`devices=$LAB_E1000E; attach-times ${boot}`, {
      timeoutMs: TIMEOUT_MS,
    });
    return parseAttachTimes(output);
  }

  async #fetch(): Promise<Pick<Figures, 'userspace' | 'fetch' | 'resident'>> {
    const line = l2CommandLine({ checks: ['dhcp', 'fetch'], url: this.#url, fetchBytes: FETCH_BYTES });
    const start = performance.now();
    let userspaceAt = Number.NaN;
    let seen = '';
    const command = `devices=$LAB_E1000E; ${watched(this.#boot(line, SMALL_MIB))}`;
    const { output } = await this.#l1.run(command, {
      timeoutMs: TIMEOUT_MS,
      onOutput: (bytes) => {
        seen += Buffer.from(bytes).toString('latin1');
        if (Number.isNaN(userspaceAt) && seen.includes('L2-USERSPACE')) userspaceAt = performance.now();
      },
    });
    if (!parseL2Results(output).get('fetch.eth0'))
      throw new Error(`${this.#vmm}: L2 did not fetch its file\n${output}`);
    const [, bytes, from, to] = /L2-FETCHED \S+ (\d+) bytes, ([\d.]+) to ([\d.]+) s/.exec(output) ?? [];
    const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(output) ?? [];
    return {
      userspace: (userspaceAt - start) / 1000,
      fetch: Number(bytes) / 2 ** 20 / (Number(to) - Number(from)),
      resident: Number(kilobytes) / 1024,
    };
  }
}

/** NaN if there are none. */
function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/** One more sample of each VMM. A VMM that fails is reported with its cause, and lacks this sample only. */
async function round(lab: GuestLab, number: number, samples: Map<string, Figures[]>): Promise<void> {
  for (const contestant of contestants) {
    const { name } = contestant;
    try {
      const now = await lab.l1({ devices: ['e1000e'], memory: L1_MEMORY });
      const bound = await now.l1.run('vfio-bind $LAB_E1000E');
      if (bound.status !== 0) throw new Error(bound.output);
      const figures = await new Bench(now, contestant).measure();
      samples.get(name)?.push(figures);
      console.log(`round ${number}, ${name}: ${JSON.stringify(figures)}`);
    } catch (error) {
      console.log(`round ${number}, ${name}: no sample: ${(error as Error).message}`);
      await lab.discard();
    }
  }
}

/**
 * Compares tsvisor with Debian's QEMU: same L1, kernel, initramfs and NIC, in turn. Prints medians and ratios; the
 * absolute times are those of software emulation.
 * @returns whether each VMM has a sample; NaN in the table stands for none
 */
export async function compare(): Promise<boolean> {
  await using lab = new GuestLab();
  const samples = new Map<string, Figures[]>(contestants.map(({ name }) => [name, []]));
  for (let number = 1; number <= ROUNDS; number++) await round(lab, number, samples);
  const table = Object.entries(rows).map(([row, title]) => {
    const of = (figures: readonly Figures[]) => median(figures.map((each) => each[row as keyof Figures]));
    const [ours, ...theirs] = [...samples].map(([name, figures]) => ({ name, value: of(figures) }));
    const cells = theirs.flatMap(({ name, value }) => [
      [name, value.toFixed(2)],
      [`to ${name}`, ((ours?.value ?? Number.NaN) / value).toFixed(2)],
    ]);
    return [title, { tsvisor: ours?.value.toFixed(2), ...Object.fromEntries(cells) }] as const;
  });
  console.table(Object.fromEntries(table));
  for (const [name, figures] of samples) console.log(`${name}: ${figures.length} of ${ROUNDS} samples`);
  return [...samples.values()].every((figures) => figures.length > 0);
}

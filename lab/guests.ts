import { type Cell, cells } from './cells.js';
import { type GuestL1, GuestLab } from './guest-lab.js';
import { inL1, otherInL1, prepare, prepareKernel } from './images.js';
import { l2CommandLine, l2UserspaceSeconds, parseL2Results } from './l2.js';
import { slowdown } from './patience.js';
import { seconds } from './step.js';

/** The VMM that boots L2: the one under test, or the reference. */
export type Vmm = 'tsvisor' | 'qemu';
export type VfioInterface = 'group' | 'iommufd';

const interfaces: readonly VfioInterface[] = ['group', 'iommufd'];
const CELL_TIMEOUT_MS = 120_000;

export interface BootOptions {
  readonly cpus?: number;
  /** In MiB. */
  readonly memory?: number;
  /** QEMU's machine type. */
  readonly machine?: string;
  /** More arguments for QEMU. */
  readonly qemu?: string;
  /** tsvisor prints warnings and errors, on standard error. */
  readonly isHeard?: true;
  /** Paths in L1; by default L1's own kernel. */
  readonly files?: { readonly kernel: string; readonly initrd: string };
}

/** Bash in L1 that boots L2 with the devices in `devices`, and prints L2's output. */
export function bootCommand(vmm: Vmm, how: VfioInterface, line: string, options: BootOptions = {}): string {
  const { cpus = 1, memory = 256, machine = 'q35', qemu = '', files = inL1 } = options;
  if (vmm === 'qemu') {
    const size = `L2_CPUS=${cpus} L2_MEMORY=${memory} L2_MACHINE=${machine} L2_KERNEL=${files.kernel} L2_INITRD=${files.initrd}`;
    return `env ${size} L2_MORE='${qemu}' l2-qemu ${how === 'group' ? 'legacy' : how} $devices -- ${line}`;
  }
  const guest = `--kernel ${files.kernel} --initrd ${files.initrd} --memory ${memory}M --cpus ${cpus}`;
  const devices = `$(for d in $devices; do echo --device $d,interface=${how}; done)`;
  const messages = options.isHeard ? '--serial stdio --log-level warn' : '--quiet';
  return `node dist/vmm/cli.js run ${messages} --no-reboot ${guest} ${devices} --append '${line}'`;
}

export interface CellResult {
  /** Why it failed; empty if it passed. */
  readonly problems: readonly string[];
  readonly ms: number;
  /** Seconds from the start of L2's kernel to its first program. */
  readonly userspaceSeconds: number | undefined;
  readonly output: string;
}

/** Boots L2 with a cell's devices, and checks the results. */
export async function runCell(
  { l1, url }: GuestL1,
  cell: Cell,
  vmm: Vmm,
  how: VfioInterface,
): Promise<CellResult> {
  const start = performance.now();
  const line = l2CommandLine({ checks: cell.checks, url, parameters: cell.parameters ?? [] });
  const boot = bootCommand(vmm, how, line, {
    cpus: cell.cpus ?? 1,
    memory: cell.memory ?? 256,
    ...(cell.kernel && { files: otherInL1(cell.kernel) }),
  });
  const { output, status } = await l1.run(
    `${cell.attach} && (${boot}); status=$?; ${cell.detach}; exit $status`,
    { timeoutMs: (cell.timeoutMs ?? CELL_TIMEOUT_MS) * Math.min(slowdown(), 3) },
  );
  const results = parseL2Results(output);
  const problems = [
    ...(status === 0 ? [] : [status === 124 ? 'stopped at its limit' : `status ${status}`]),
    ...cell.expected.filter((name) => !results.has(name)).map((name) => `no result ${name}`),
    ...[...results].filter(([, isOk]) => !isOk).map(([name]) => `${name} failed`),
    ...l1.takeDmaFaults().map((line) => `DMA fault in L1: ${line}`),
  ];
  return { problems, ms: performance.now() - start, userspaceSeconds: l2UserspaceSeconds(output), output };
}

export interface GuestsOptions {
  /** For each cell that fails, each in a new L1. */
  readonly tries?: number;
  /** The nightly cells, too. */
  readonly all?: boolean;
}

/** @throws Error listing the cells if a name is unknown */
function chooseCells(vmm: Vmm, names: readonly string[], all: boolean): readonly Cell[] {
  const unknown = names.filter((name) => !cells.some((cell) => cell.name === name));
  if (unknown.length > 0) {
    throw new Error(
      `no cell '${unknown.join("', '")}'\n  hint: one of ${cells.map(({ name }) => name).join('; ')}`,
    );
  }
  return cells.filter(
    (cell) =>
      (names.length === 0 ? all || !cell.isNightly : names.includes(cell.name)) &&
      (vmm === 'tsvisor' || !cell.isInProcess),
  );
}

/** Runs a cell until it passes, at most `tries` times. After a failure its L1 is not used again. */
async function tryCell(
  lab: GuestLab,
  cell: Cell,
  vmm: Vmm,
  how: VfioInterface,
  tries: number,
): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    const start = performance.now();
    let problems: readonly string[];
    let output = '';
    let up = '-';
    try {
      const result = await runCell(await lab.l1(cell.l1), cell, vmm, how);
      ({ problems, output } = result);
      up = result.userspaceSeconds?.toFixed(1) ?? '-';
    } catch (error) {
      problems = [(error as Error).message];
    }
    const isPassed = problems.length === 0;
    console.log(
      `${isPassed ? 'ok    ' : 'FAILED'} ${vmm}, ${cell.name}, ${how}: ${seconds(start)}, L2 up at ${up} s` +
        `${isPassed ? '' : `: ${problems.join('; ').slice(0, 500)}`}`,
    );
    if (isPassed) return `ok ${seconds(start)}${attempt > 1 ? `, try ${attempt}` : ''}`;
    console.log(`--- ${problems.join('\n')}\n${output.slice(-4000)}\n---`);
    await lab.discard();
    if (attempt >= tries) return 'FAILED';
  }
}

/** @param isAsked whether it is asked for: by its name, or as one of all */
const runsBy = (cell: Cell, how: VfioInterface, isAsked: boolean): boolean =>
  how === 'group'
    ? isAsked || cell.nightly !== 'group'
    : cell.isByGroupOnly !== true && (isAsked || cell.nightly !== 'iommufd');

/**
 * Boots L2 with each device through each interface, and prints a table, whatever happens to one of them.
 * @param names cells to run; all that are not nightly if empty
 * @returns whether all passed
 */
export async function runGuests(
  vmm: Vmm,
  names: readonly string[],
  { tries = 1, all = false }: GuestsOptions = {},
): Promise<boolean> {
  const chosen = chooseCells(vmm, names, all);
  await prepare();
  for (const { kernel } of chosen) if (kernel !== undefined) await prepareKernel(kernel);
  await using lab = new GuestLab();
  const rows: Record<string, Record<string, string>> = {};
  for (const cell of chosen) {
    for (const how of interfaces.filter((each) => runsBy(cell, each, all || names.length > 0))) {
      rows[cell.name] = { ...rows[cell.name], [how]: await tryCell(lab, cell, vmm, how, tries) };
    }
  }
  console.table(rows);
  return Object.values(rows).every((row) => !Object.values(row).includes('FAILED'));
}

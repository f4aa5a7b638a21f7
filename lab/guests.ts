import { type Cell, cells } from './cells.js';
import { deviceNames } from './devices.js';
import { inL1 } from './images.js';
import { L1, type L1Options } from './l1.js';
import { l2CommandLine, l2UserspaceSeconds, parseL2Results } from './l2.js';

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
}

/** Bash in L1 that boots L2 with the devices in `devices`, and prints L2's output. */
export function bootCommand(vmm: Vmm, how: VfioInterface, line: string, options: BootOptions = {}): string {
  const { cpus = 1, memory = 256, machine = 'q35' } = options;
  if (vmm === 'qemu') {
    const size = `L2_CPUS=${cpus} L2_MEMORY=${memory} L2_MACHINE=${machine}`;
    return `env ${size} l2-qemu ${how === 'group' ? 'legacy' : how} $devices -- ${line}`;
  }
  const guest = `--kernel ${inL1.kernel} --initrd ${inL1.initrd} --memory ${memory}M --cpus ${cpus}`;
  const devices = `$(for d in $devices; do echo --device $d,interface=${how}; done)`;
  return `node dist/vmm/cli.js run --quiet --no-reboot ${guest} ${devices} --append '${line}'`;
}

export interface CellResult {
  readonly isPassed: boolean;
  readonly ms: number;
  /** Seconds from the start of L2's kernel to its first program. */
  readonly userspaceSeconds: number | undefined;
  readonly output: string;
}

/** Boots L2 with a cell's devices, and checks the results. */
export async function runCell(
  l1: L1,
  cell: Cell,
  vmm: Vmm,
  how: VfioInterface,
  url: string,
): Promise<CellResult> {
  const start = performance.now();
  const line = l2CommandLine({ checks: cell.checks, url, parameters: cell.parameters ?? [] });
  const boot = bootCommand(vmm, how, line, { cpus: cell.cpus ?? 1 });
  const { output, status } = await l1.run(
    `${cell.attach} && (${boot}); status=$?; ${cell.detach}; exit $status`,
    { timeoutMs: CELL_TIMEOUT_MS },
  );
  const results = parseL2Results(output);
  const isPassed =
    status === 0 &&
    cell.expected.every((name) => results.get(name)) &&
    ![...results.values()].includes(false);
  return { isPassed, ms: performance.now() - start, userspaceSeconds: l2UserspaceSeconds(output), output };
}

/** Boots L1 with all devices and VFIO loaded; `url` serves L2's file. */
export async function bootForGuests(
  options: L1Options = {},
): Promise<{ readonly l1: L1; readonly url: string }> {
  const l1 = await L1.boot({ devices: deviceNames, ...options });
  const loaded = await l1.run('vfio-load && echo $LAB_URL');
  if (loaded.status === 0) return { l1, url: loaded.output.trim() };
  await l1[Symbol.asyncDispose]();
  throw new Error(`VFIO did not load in L1\n${loaded.output}`);
}

/**
 * Boots L2 with each device through each interface, and prints a table.
 * @param names cells to run; all if empty
 * @returns whether all passed
 */
export async function runGuests(vmm: Vmm, names: readonly string[]): Promise<boolean> {
  const unknown = names.filter((name) => !cells.some((cell) => cell.name === name));
  if (unknown.length > 0) {
    throw new Error(
      `no cell '${unknown.join("', '")}'\n  hint: one of ${cells.map(({ name }) => name).join('; ')}`,
    );
  }
  const chosen = cells.filter(
    (cell) => (names.length === 0 || names.includes(cell.name)) && (vmm === 'tsvisor' || !cell.isInProcess),
  );
  const { l1, url } = await bootForGuests();
  await using _l1 = l1;
  const failures: string[] = [];
  const rows: Record<string, Record<string, string>> = {};
  for (const cell of chosen) {
    for (const how of cell.isByGroupOnly ? (['group'] as const) : interfaces) {
      const { isPassed, ms, userspaceSeconds, output } = await runCell(l1, cell, vmm, how, url);
      const time = `${(ms / 1000).toFixed(1)} s`;
      const up = userspaceSeconds?.toFixed(1) ?? '-';
      console.log(
        `${isPassed ? 'ok    ' : 'FAILED'} ${vmm}, ${cell.name}, ${how}: ${time}, L2 up at ${up} s`,
      );
      rows[cell.name] = { ...rows[cell.name], [how]: isPassed ? `ok ${time}` : 'FAILED' };
      if (!isPassed) failures.push(`--- ${cell.name}, ${how}\n${output.slice(-3000)}`);
    }
  }
  console.table(rows);
  if (failures.length > 0) console.log(failures.join('\n'));
  return failures.length === 0;
}

/** Time from the start of the `tsvisor run` process to the guest's first instruction. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { monotonicMs } from '../sys/monotonic.js';
import type { RunReport } from '../vmm/protocol.js';
import { interleave, median, type Rounds } from './measure.js';
import type { Report } from './report.js';
import { startBudget } from './start-budget.js';

const ROUNDS = 9;
const FIRST_INSTRUCTION = 0x10;
const cli = fileURLToPath(new URL('../vmm/cli.js', import.meta.url));

/** Starts the CLI, and reads the time of the guest's first instruction from its report; both use the same clock. */
function untilFirstInstruction(args: readonly string[]): number {
  const start = monotonicMs();
  const { stdout, stderr, status } = spawnSync(process.execPath, [cli, 'run', '--json', ...args], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`tsvisor run ended with ${status}: ${stderr}`);
  const report = JSON.parse(stdout) as RunReport;
  const first = report.phases.find(({ code }) => code === FIRST_INSTRUCTION);
  if (first === undefined) throw new Error('the guest did not report its first instruction');
  return first.at - start;
}

/** The lower bound: a Node process that does nothing. */
function bareNode(): number {
  const start = monotonicMs();
  spawnSync(process.execPath, ['-e', '0']);
  return monotonicMs() - start;
}

const run = () => untilFirstInstruction(['--append', 'halt-test']);

export const startUpRounds = (): Rounds => ({
  "process start to the guest's first instruction": () => run() * 1e6,
});

export async function startUp(report: Report): Promise<void> {
  const budgets: Record<string, number>[] = [];
  const { node = 0, ours = 0 } = await interleave(ROUNDS, {
    node: bareNode,
    ours: run,
    budget: () => budgets.push(startBudget(cli, ['--append', 'halt-test'])),
  });
  report.line(
    `  process start to the guest's first instruction, NIC attached: ${ours.toFixed(0)} ms ` +
      `(${(ours / node).toFixed(1)} x an empty Node process, ${node.toFixed(0)} ms)`,
  );
  const [mine, empty] = ["process start to the guest's first instruction", 'an empty Node process'];
  report.add({ benchmark: 'start-up', name: empty, unit: 'ms', value: node });
  report.add({
    benchmark: 'start-up',
    name: mine,
    unit: 'ms',
    value: ours,
    ratio: { to: empty, value: ours / node },
  });
  report.line('  by phase, observed, which takes longer:');
  for (const phase of Object.keys(budgets[0] ?? {})) {
    const value = median(budgets.map((budget) => budget[phase] as number));
    report.line(`    ${value.toFixed(1).padStart(6)} ms (${(value / node).toFixed(2)} x)  ${phase}`);
    report.add({
      benchmark: 'start-up',
      name: phase,
      unit: 'ms',
      value,
      ratio: { to: empty, value: value / node },
    });
  }
}

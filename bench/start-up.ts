/** Time from the start of the `tsvisor run` process to the guest's first instruction. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { RunReport } from '../vmm/protocol.js';
import { monotonicMs } from '../vmm/protocol.js';
import { interleave } from './measure.js';

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

export async function startUp(): Promise<void> {
  const result = await interleave(ROUNDS, {
    node: bareNode,
    run: () => untilFirstInstruction(['--append', 'halt-test']),
  });
  const { node = 0, run = 0 } = result;
  console.log(
    `  process start to the guest's first instruction, NIC attached: ${run.toFixed(0)} ms ` +
      `(${(run / node).toFixed(1)} x an empty Node process, ${node.toFixed(0)} ms)`,
  );
}

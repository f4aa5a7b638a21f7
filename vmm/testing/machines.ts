/** For tests: runs machines and the CLI, and collects what they say. */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { VmConfigInput } from '../config.js';
import type { RunReport } from '../protocol.js';
import { VirtualMachine } from '../virtual-machine.js';

/** The compiled command line program. */
export const CLI = fileURLToPath(new URL('../../dist/vmm/cli.js', import.meta.url));

/** Runs `tsvisor ARGS` to its end. @param wrapper a command to run it under: `unshare -n` */
export function tsvisor(args: readonly string[], wrapper: readonly string[] = []): SpawnSyncReturns<string> {
  const [command = '', ...rest] = [...wrapper, process.execPath, CLI, ...args];
  return spawnSync(command, rest, { encoding: 'utf8', timeout: 60_000 });
}

export interface FinishedRun {
  readonly report: RunReport;
  readonly serial: string;
  readonly steps: readonly string[];
}

/** Runs a machine to its end. */
export async function runMachine(config: VmConfigInput): Promise<FinishedRun> {
  const pieces: Uint8Array[] = [];
  const steps: string[] = [];
  await using vm = VirtualMachine.start(config, {
    serial: (bytes) => pieces.push(bytes),
    step: (text) => steps.push(text),
  });
  const report = await vm.finished;
  return { report, serial: Buffer.concat(pieces).toString('latin1'), steps };
}

/** A NIC whose wire ends at the responder. */
export const NIC = { address: 'virtio-net', options: { net: 'responder' } } as const;

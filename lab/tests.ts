/** Runs lab tests, each file in an L1 of its own. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { L1, type L1Options } from './l1.js';
import { projectFolder } from './paths.js';
import { parseServed } from './served.js';
import { servedFor } from './served-cards.js';
import { say, seconds } from './step.js';

const TEST_FOLDERS = ['kvm', 'vfio', 'devices', 'vmm', 'examples', 'lab'];
const VITEST = `node ${projectFolder}/node_modules/vitest/vitest.mjs run --config lab/vitest.lab.ts`;
/** Status of timeout(1). */
const AT_LIMIT = 124;
/** The lab failed, not the tests. */
export const LAB_FAILED = 125;

/** Tests for a machine without an IOMMU. */
const NO_IOMMU = /\.no-iommu\.lab\.test\.ts$/;

/** Tests of guests that boot from the Debian disk. */
const DEBIAN = /\/root-disk\./;

/** Tests that drive served NICs by DPDK. */
const DPDK = /\/dpdk\./;

const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

/**
 * Runs a command in an L1 of its own; prints its output as it arrives, and says if its limit ended it.
 * @returns its status; 1 instead of 0 if L1's IOMMU refused a DMA
 */
export async function runInL1(
  words: readonly string[],
  options: L1Options,
  timeoutMs: number,
): Promise<number> {
  await using l1 = await L1.boot(options);
  const command = words.length === 1 ? words[0]! : words.map(quote).join(' ');
  const start = performance.now();
  const { status } = await l1.run(command, { timeoutMs, onOutput: (bytes) => process.stdout.write(bytes) });
  if (status === AT_LIMIT && performance.now() - start >= timeoutMs)
    say(`stopped at its limit of ${timeoutMs / 1000} s (--timeout): ${command.slice(0, 200)}`);
  const faults = l1.takeDmaFaults();
  if (faults.length === 0) return status;
  say(`a device accessed memory that is not mapped for it, as L1's kernel reports:\n${faults.join('\n')}`);
  return status || 1;
}

/** Run only by name, or with `all`. */
const NIGHTLY = /\.nightly\.lab\.test\.ts$/;

/** The project's lab tests. */
function labTests(all: boolean): string[] {
  return TEST_FOLDERS.flatMap((folder) =>
    readdirSync(join(projectFolder, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.lab.test.ts') && !name.startsWith('.'))
      .filter((name) => all || !NIGHTLY.test(name))
      .map((name) => join(folder, name)),
  );
}

const wordFor: Readonly<Record<number, string>> = {
  0: 'ok',
  [AT_LIMIT]: 'at its limit',
  [LAB_FAILED]: 'no lab',
};

/** How tests are run. */
export interface TestRuns {
  /** Of each file. */
  readonly timeoutMs: number;
  /** For each file: software emulation stalls now and then. Default: 1. */
  readonly tries?: number;
  /** The nightly files, too. */
  readonly all?: boolean;
}

/**
 * Runs the named tests in one L1; if none is named, each file in its own L1, since tests unplug devices. Whatever
 * happens to one file, the others run; a list of all is printed at the end.
 * @param runIn runs Vitest; throws if its L1 fails
 * @returns 0, or the status of a file that failed in all its tries: Vitest's, 124 at its limit, 125 if its L1 failed
 */
export async function runTests(
  names: readonly string[],
  options: L1Options,
  { timeoutMs, tries = 1, all = false }: TestRuns,
  runIn: typeof runInL1 = runInL1,
): Promise<number> {
  const runs = names.length > 0 ? [names] : labTests(all).map((name) => [name]);
  const list: string[] = [];
  let worst = 0;
  for (const run of runs) {
    const iommu = options.iommu !== false && !run.some((name) => NO_IOMMU.test(name));
    const debian = run.some((name) => DEBIAN.test(name));
    const dpdk = run.some((name) => DPDK.test(name));
    const served = parseServed(servedFor(run));
    // Tests of what tsvisor serves to L1 need nothing else.
    const machine = served.length > 0 ? { devices: [], served } : {};
    const once = () =>
      runIn(
        [`${VITEST} ${run.map(quote).join(' ')}`],
        { ...options, iommu, debian, dpdk, ...machine },
        timeoutMs,
      );
    let status = LAB_FAILED;
    for (let attempt = 1; attempt <= tries && status !== 0; attempt++) {
      const start = performance.now();
      try {
        status = await once();
      } catch (error) {
        status = LAB_FAILED;
        say((error as Error).message);
      }
      list.push(
        `${(wordFor[status] ?? 'FAILED').padEnd(12)} ${seconds(start).padStart(7)}  ${run.join(' ')}`,
      );
    }
    worst = status || worst;
  }
  say(`test files:\n${list.join('\n')}`);
  return worst;
}

import { accessSync, constants } from 'node:fs';
import { defineConfig } from 'vitest/config';

/** Why a tier of tests cannot run here. */
function problemWith(path: string, mode: number): string | undefined {
  try {
    accessSync(path, mode);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const required = (process.env.TSVISOR_REQUIRED_TIERS ?? '').split(',');
const problems = {
  kvm: problemWith('/dev/kvm', constants.R_OK | constants.W_OK),
  // npm run lab -- vfio-user sets it, and what else the guests are made of.
  qemu: process.env.TSVISOR_QEMU
    ? problemWith(process.env.TSVISOR_QEMU, constants.X_OK)
    : 'TSVISOR_QEMU is not set',
  browser: problemWith(process.env.TSVISOR_CHROMIUM ?? '/usr/bin/chromium', constants.X_OK),
};
/** A tier that cannot run here is left out, and said to be; TSVISOR_REQUIRED_TIERS makes that a failure. */
const leftOut = Object.entries(problems).flatMap(([tier, problem]) => {
  if (problem === undefined) return [];
  const text = `tier ${tier} (*.${tier}.test.ts) is left out: ${problem}`;
  if (required.includes(tier)) throw new Error(`${text}, but TSVISOR_REQUIRED_TIERS asks for it`);
  console.log(text);
  return [`**/*.${tier}.test.ts`];
});

// The default pool (forks) is needed: ffi-rs must first be loaded in a main thread.
export default defineConfig({
  oxc: { target: 'es2022' },
  test: {
    include: ['{sys,kvm,vfio,devices,vmm,examples,bench,faults,lab,mutants}/**/*.test.ts'],
    exclude: [
      'lab/.cache/**', // a whole Debian
      '**/*.lab.test.ts', // run in the lab: npm run lab -- test
      ...leftOut,
    ],
    setupFiles: ['sys/testing/setup.ts'],
    testTimeout: 30_000,
    maxWorkers: 2,
  },
});

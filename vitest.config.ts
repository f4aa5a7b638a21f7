import { accessSync, constants } from 'node:fs';
import { defineConfig } from 'vitest/config';

/** A tier that cannot run here is left out, and said to be; TSVISOR_REQUIRED_TIERS makes that a failure. */
function tierProblem(tier: 'kvm'): string | undefined {
  try {
    accessSync(`/dev/${tier}`, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const required = (process.env.TSVISOR_REQUIRED_TIERS ?? '').split(',');
const kvmProblem = tierProblem('kvm');
if (kvmProblem !== undefined) {
  const text = `tier kvm (*.kvm.test.ts) is left out: ${kvmProblem}`;
  if (required.includes('kvm')) throw new Error(`${text}, but TSVISOR_REQUIRED_TIERS asks for it`);
  console.log(text);
}

// The default pool (forks) is needed: ffi-rs must first be loaded in a main thread.
export default defineConfig({
  oxc: { target: 'es2022' },
  test: {
    include: ['{sys,kvm,vfio,devices,vmm,examples,bench,lab}/**/*.test.ts'],
    exclude: [
      'lab/.cache/**', // a whole Debian
      '**/*.lab.test.ts', // run in the lab: npm run lab -- test
      ...(kvmProblem === undefined ? [] : ['**/*.kvm.test.ts']),
    ],
    setupFiles: ['sys/testing/setup.ts'],
    testTimeout: 30_000,
    maxWorkers: 2,
  },
});

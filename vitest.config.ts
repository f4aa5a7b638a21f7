import { defineConfig } from 'vitest/config';

// The default pool (forks) is needed: ffi-rs must first be loaded in a main thread.
export default defineConfig({
  oxc: { target: 'es2022' },
  test: {
    include: ['{sys,kvm,vfio,devices,vmm,examples,bench}/**/*.test.ts'],
    setupFiles: ['sys/testing/setup.ts'],
    testTimeout: 30_000,
    maxWorkers: 2,
  },
});

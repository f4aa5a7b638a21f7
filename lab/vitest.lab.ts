import { defineConfig } from 'vitest/config';

// biome-ignore lint/style/noDefaultExport: Vitest takes a default export
export default defineConfig({
  oxc: { target: 'es2022' },
  test: {
    // The tier kvm, by name, for a machine without /dev/kvm.
    include: ['{kvm,vfio,devices,vmm,examples,lab}/**/*.{lab,kvm}.test.ts'],
    exclude: ['**/node_modules/**', 'lab/.cache/**'],
    setupFiles: ['sys/testing/setup.ts'],
    testTimeout: 120_000,
    fileParallelism: false, // files share L1's devices
    reporters: ['verbose'], // each test when it ends: a file may be stopped at its limit
  },
});

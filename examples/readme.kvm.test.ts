/** The programs in README and the embedding guide are run, not only read. */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { expect, test } from 'vitest';

const page = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');
const programsOf = (text: string): string[] =>
  [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code as string);

/** Runs TypeScript as a program of this package's own folder, which finds `tsvisor` by its name. */
function run(code: string) {
  const target = ts.ScriptTarget.ES2022;
  const { outputText } = ts.transpileModule(code, {
    compilerOptions: { target, module: ts.ModuleKind.ESNext },
  });
  const file = fileURLToPath(new URL(`../dist/readme-${process.pid}.mjs`, import.meta.url));
  writeFileSync(file, outputText);
  try {
    return spawnSync(process.execPath, [file], { encoding: 'utf8', timeout: 60_000 });
  } finally {
    rmSync(file);
  }
}

test.each(programsOf(page('README.md')).map((code, i) => [i + 1, code] as const))(
  'program %i of README runs to its end',
  (_number, code) => {
    const { stderr, status } = run(code);
    expect(stderr).toBe('');
    expect(status).toBe(0);
  },
);

test('what the embedding guide wires by injection and traces works as it stands there', () => {
  const guide = programsOf(page('docs/embedding.md')).join('\n');
  const [injection] = /container\.register[\s\S]*?'virtio-net' }\);\n/.exec(guide) ?? [];
  const [tracing] = /trace\.vfio\.subscribe.*\n/.exec(guide) ?? [];
  const { stdout, stderr, status } = run(`
    import 'reflect-metadata';
    import { container } from 'tsyringe';
    import { Assignment, PolledEventThread, portTokens, registerAssignment, trace } from 'tsvisor/assign';
    import { Doorbells } from 'tsvisor/devices';
    import { gpa, Kvm, Mapping } from 'tsvisor/kvm';
    import { FakeDoorbells as MyDoorbells } from 'tsvisor/testing';
    await using events = await PolledEventThread.start();
    using kvm = Kvm.open();
    using vm = kvm.createVm();
    vm.createIrqchip();
    const windows = [{ kind: 'mmio', base: 0xc000_0000n, bytes: 0x1000_0000n }];
    ${tracing}
    ${injection}
  `);
  expect(stderr).toBe('');
  expect(stdout).toMatch(/is associated with the VM/);
  expect(status).toBe(0);
});

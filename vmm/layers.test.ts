import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** What each folder may import of ours: itself and what is below it. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  sys: ['sys'],
  kvm: ['kvm', 'sys'],
  vfio: ['vfio', 'sys'],
  devices: ['devices', 'vfio', 'kvm', 'sys'],
  vmm: ['vmm', 'devices', 'vfio', 'kvm', 'sys'],
};

function sources(folder: string): string[] {
  const entries = readdirSync(join(ROOT, folder), { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
}

const importsOf = (file: string): string[] =>
  [...readFileSync(join(ROOT, file), 'utf8').matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(
    (m) => m[1] as string,
  );

function violations(folder: string): string[] {
  const allowed = MAY_IMPORT[folder] ?? [];
  return sources(folder).flatMap((file) =>
    importsOf(file)
      .filter((specifier) => specifier.startsWith('.'))
      .map((specifier) => normalize(join(dirname(file), specifier)))
      .filter((target) => !allowed.includes(target.split('/')[0] as string))
      .map((target) => `${file} imports ${target}`),
  );
}

for (const folder of Object.keys(MAY_IMPORT)) {
  test(`${folder}/ imports nothing above or beside it`, () => {
    expect(violations(folder)).toEqual([]);
  });
}

test('only sys/libc.ts knows ffi-rs', () => {
  const knowing = Object.keys(MAY_IMPORT)
    .flatMap(sources)
    .filter((file) => importsOf(file).includes('ffi-rs'));
  expect(knowing).toEqual(['sys/libc.ts']);
});

test('only vmm/ knows tsyringe', () => {
  const knowing = Object.keys(MAY_IMPORT)
    .filter((folder) => folder !== 'vmm')
    .flatMap(sources)
    .filter((file) => importsOf(file).includes('tsyringe'));
  expect(knowing).toEqual([]);
});

test('examples import the public entries only', () => {
  const others = sources('examples').flatMap((file) =>
    importsOf(file)
      .filter((specifier) => specifier.startsWith('.') && !specifier.startsWith('./'))
      .map((specifier) => `${file} imports ${specifier}`),
  );
  expect(others).toEqual([]);
});

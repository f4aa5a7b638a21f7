import { describe, expect, test } from 'vitest';
import { type Files, importsOf, sources as sourcesOf } from '../sys/testing/imports.js';

/** Files that may import each other in a circle: a device is in a group, a group has devices, the registry has both. */
const CIRCLE = ['vfio/core/device.ts', 'vfio/core/group.ts', 'vfio/core/registry.ts'];

/** Parts of vfio/ that know its top, and never each other. */
const PARTS = ['core', 'host', 'user', 'assign'];

/** What stands on the circle; the rest of vfio/core is below it. */
const ABOVE = [
  'core',
  'device-file',
  'file-ops',
  'group-file',
  'hot-reset',
  'iommufd-bind',
  'mdev',
  'provider',
].map((name) => `vfio/core/${name}.ts`);

const isTest = (path: string): boolean => path.endsWith('.test.ts') || path.includes('/testing/');

const sources = (folder: string): Files => new Map([...sourcesOf(folder)].filter(([path]) => !isTest(path)));

/** All that a file imports, by itself and by what it imports, within `files`. */
function reachable(files: Files, from: string): ReadonlySet<string> {
  const seen = new Set<string>();
  const left = [from];
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    for (const next of importsOf(path, files.get(path) ?? '')) {
      if (!files.has(next) || seen.has(next)) continue;
      seen.add(next);
      left.push(next);
    }
  }
  return seen;
}

/** Sets of files that all reach each other. */
function circles(files: Files): string[][] {
  const reach = new Map([...files.keys()].map((path) => [path, reachable(files, path)]));
  const found = new Map<string, string[]>();
  for (const [path, reached] of reach) {
    if (!reached.has(path)) continue;
    const circle = [...reached].filter((other) => reach.get(other)?.has(path)).sort();
    found.set(circle.join(), circle);
  }
  return [...found.values()];
}

/** Circles that are larger than three files, or of other files than those that may form one. */
const forbiddenCircles = (files: Files): string[][] =>
  circles(files).filter(
    (circle) => circle.length > CIRCLE.length || circle.some((path) => !CIRCLE.includes(path)),
  );

/** Files below devices and groups that reach one of them. */
const climbing = (files: Files): string[] =>
  [...files.keys()]
    .filter((path) => ![...CIRCLE, ...ABOVE].includes(path))
    .filter((path) => [...reachable(files, path)].some((reached) => CIRCLE.includes(reached)));

/**
 * What a file of vfio/ imports that it may not: a sibling part, a layer above, or the entry that has all parts in it.
 */
function strayImports(files: Files): string[] {
  return [...files].flatMap(([path, source]) => {
    const [, part = ''] = path.split('/');
    if (path === 'vfio/index.ts') return [];
    return importsOf(path, source)
      .filter((target) => {
        const [layer, folder = ''] = target.split('/');
        if (layer === 'sys') return false;
        const isTop = !folder.includes('.') ? false : target !== 'vfio/index.ts';
        return layer !== 'vfio' || !(isTop || (PARTS.includes(part) && folder === part));
      })
      .map((target) => `${path} imports ${target}`);
  });
}

describe('vfio/core', () => {
  test('device, group and registry are the only files that import each other in a circle', () => {
    expect(forbiddenCircles(sources('vfio/core'))).toEqual([]);
  });

  test('nothing below devices and groups reaches them', () => {
    expect(climbing(sources('vfio/core'))).toEqual([]);
  });

  test('the names of this test are names of files', () => {
    const files = sources('vfio/core');
    expect([...CIRCLE, ...ABOVE].filter((path) => !files.has(path))).toEqual([]);
  });
});

describe('vfio/', () => {
  test('each part imports the top of vfio/, itself and sys/, and so does the top', () => {
    expect(strayImports(sources('vfio'))).toEqual([]);
  });
});

describe('the rules themselves', () => {
  // Put together here, so that no other reader of sources takes what is planted for an import of this file.
  const typeImport = (specifier: string): string => `import type { X } from '${specifier}';\n`;
  const reexport = (specifier: string): string => `export { x } from '${specifier}';\n`;
  const importCall = (specifier: string): string => `const later = await import('${specifier}');\n`;

  /** Files that import each other as `links` say: `a>b` for a that imports b. */
  function planted(folder: string, ...links: readonly string[]): Files {
    const files = new Map<string, string>();
    for (const link of links) {
      const [from, to] = link.split('>') as [string, string];
      const path = `${folder}/${from}.ts`;
      files.set(path, `${files.get(path) ?? ''}${typeImport(`./${to}.js`)}`);
      if (!files.has(`${folder}/${to}.ts`)) files.set(`${folder}/${to}.ts`, '');
    }
    return files;
  }

  test('a circle of two other files is found, though it is one of types', () => {
    const files = planted('vfio/core', 'locks>steps', 'steps>locks', 'locks>clock');
    expect(forbiddenCircles(files)).toEqual([['vfio/core/locks.ts', 'vfio/core/steps.ts']]);
  });

  test('a circle of four is found, the allowed three among them', () => {
    const three = ['device>group', 'group>registry', 'registry>device'];
    expect(forbiddenCircles(planted('vfio/core', ...three))).toEqual([]);
    const [circle] = forbiddenCircles(planted('vfio/core', ...three, 'group>container', 'container>group'));
    expect(circle).toEqual(
      ['container', 'device', 'group', 'registry'].map((name) => `vfio/core/${name}.ts`),
    );
  });

  test('two circles that do not meet are two', () => {
    expect(circles(planted('vfio/core', 'a>b', 'b>a', 'b>c', 'c>d', 'd>c'))).toHaveLength(2);
  });

  test('a low file that reaches a group by way of another is found', () => {
    const files = planted('vfio/core', 'type1>container', 'container>group', 'mdev>device');
    expect(climbing(files)).toEqual(['vfio/core/type1.ts', 'vfio/core/container.ts']);
  });

  test.each([
    ['a sibling', 'vfio/host/group.ts', '../core/group.js', 'vfio/core/group.ts'],
    ['a sibling from below', 'vfio/user/server/session.ts', '../../core/regions.js', 'vfio/core/regions.ts'],
    ['a fake', 'vfio/core/device.ts', '../testing/world.js', 'vfio/testing/world.ts'],
    ['a part, from the top', 'vfio/feature.ts', './core/migration.js', 'vfio/core/migration.ts'],
    ['the entry', 'vfio/assign/attach.ts', '../index.js', 'vfio/index.ts'],
    ['a layer above', 'vfio/core/provider.ts', '../../devices/contracts.js', 'devices/contracts.ts'],
    ['a layer beside', 'vfio/uapi.ts', '../kvm/vm.js', 'kvm/vm.ts'],
  ])('an import of %s is found', (_what, path, specifier, target) => {
    const allowed = typeImport('../../sys/error.js') + reexport('./other.js');
    const inPlace = path.split('/').length === 3 ? allowed : '';
    expect(strayImports(new Map([[path, inPlace]]))).toEqual([]);
    const file = new Map([[path, `${inPlace}${reexport(specifier)}`]]);
    expect(strayImports(file)).toEqual([`${path} imports ${target}`]);
  });

  test('an import that is written as a call is one', () => {
    const file = new Map([['vfio/core/device.ts', importCall('../user/index.js')]]);
    expect(strayImports(file)).toEqual(['vfio/core/device.ts imports vfio/user/index.ts']);
  });
});

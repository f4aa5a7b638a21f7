import { describe, expect, test } from 'vitest';
import { type Files, importsOf, sources, specifiersOf } from '../sys/testing/imports.js';

/** What each folder may import of ours: itself and what is below it. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  sys: ['sys'],
  kvm: ['kvm', 'sys'],
  vfio: ['vfio', 'sys'],
  devices: ['devices', 'vfio', 'kvm', 'sys'],
  vmm: ['vmm', 'devices', 'vfio', 'kvm', 'sys'],
};
const LAYERS = Object.keys(MAY_IMPORT);

/** The parts of vfio/, and what of each the layers above may name. The top of vfio/ is open to them. */
const PARTS_OF_VFIO: Readonly<Record<string, readonly string[]>> = {
  assign: ['vfio/assign/index.ts'],
  core: ['vfio/core/core.ts'],
  host: ['vfio/host/index.ts', 'vfio/host/check/index.ts', 'vfio/host/inventory/index.ts'],
  user: ['vfio/user/index.ts', 'vfio/user/conformance/index.ts'],
  testing: ['vfio/testing/index.ts'],
};

const isTest = (path: string): boolean => path.endsWith('.test.ts') || path.includes('/testing');
const all = (): Files => new Map(LAYERS.flatMap((layer) => [...sources(layer)]));

/** `FILE imports TARGET` for each import that `isWrong`. */
const imports = (files: Files, isWrong: (path: string, target: string) => boolean): string[] =>
  [...files].flatMap(([path, source]) =>
    importsOf(path, source)
      .filter((target) => isWrong(path, target))
      .map((target) => `${path} imports ${target}`),
  );

const layerOf = (path: string): string => path.split('/')[0] as string;

const upwards = (files: Files): string[] =>
  imports(files, (path, target) => !(MAY_IMPORT[layerOf(path)] ?? LAYERS).includes(layerOf(target)));

/** Layers above vfio/ that look into one of its parts, but for its face. */
const intoVfio = (files: Files): string[] =>
  imports(files, (path, target) => {
    const [layer, part = '', inside] = target.split('/');
    if (isTest(path) || layer !== 'vfio' || layerOf(path) === 'vfio' || inside === undefined) return false;
    return PARTS_OF_VFIO[part]?.includes(target) !== true;
  });

const RULES = 'vfio/host/check/';
const INVENTORY = 'vfio/host/inventory/';

/** What is loaded with a file: all that it imports for values, by itself and by what it imports, but by no call. */
function loaded(files: Files, from: string): readonly string[] {
  const seen = new Set([from]);
  for (const path of seen) {
    const source = (files.get(path) ?? '').replaceAll(
      /^(?:import|export) type [^;]+;|import\('[^']+'\)/gm,
      '',
    );
    for (const target of importsOf(path, source)) if (files.has(target)) seen.add(target);
  }
  return [...seen];
}

/** Devices know providers by the seam only. */
const devicesThatKnowProviders = (files: Files): string[] =>
  imports(
    files,
    (path, target) =>
      layerOf(path) === 'devices' && !isTest(path) && /^vfio\/(core|host|user)\//.test(target),
  );

/** The default ports of an assignment need nothing else of the machine. */
const assignThatNeedsTheMachine = (files: Files): string[] =>
  imports(
    files,
    (path, target) =>
      path.startsWith('vmm/assign/') &&
      !isTest(path) &&
      layerOf(target) === 'vmm' &&
      !target.startsWith('vmm/assign/'),
  );

/** Files that import a package, and are not among those that may. */
const strangers = (files: Files, specifier: string, may: (path: string) => boolean): string[] =>
  [...files]
    .filter(([path, source]) => !isTest(path) && specifiersOf(source).includes(specifier) && !may(path))
    .map(([path]) => path);

/** Files that make views of addresses: of mappings, and of kvm_run while its thread is in it. */
const MAY_TAKE_MEMORY: readonly string[] = ['sys/mapping.ts', 'sys/inbox.ts', 'sys/exit-board.ts'];

const knowsFfi = (files: Files) => strangers(files, 'ffi-rs', (path) => path === 'sys/libc.ts');
const knowsTsyringe = (files: Files) => strangers(files, 'tsyringe', (path) => path.startsWith('vmm/'));

/** Sources that make memory of an address, or an address of memory, without an owner that holds it. */
const rawAddresses = (files: Files): string[] =>
  [...files]
    .filter(([path]) => !isTest(path))
    .filter(([path, source]) =>
      path === 'sys/libc.ts'
        ? /^export (?:const|function) (?:fixedAddress|bytesAddress|addressOf)\b/m.test(source)
        : /\b(?:addressOf|fixedAddress|bytesAddress)\b/.test(source) ||
          // An address that leaves the callback in which its buffer is held.
          /\bwithAddress\(\s*[^,]+,\s*\(?(\w+)\)?\s*=>\s*\1\s*\)/.test(source) ||
          (/\bmemoryAt\b/.test(source) && !MAY_TAKE_MEMORY.includes(path)),
    )
    .map(([path]) => path);

/** Examples that reach into the project instead of importing its entries. */
const examplesInside = (files: Files): string[] =>
  imports(files, (path, target) => layerOf(path) === 'examples' && layerOf(target) !== 'examples');

describe('the layers', () => {
  test.each(LAYERS)('%s/ imports nothing above or beside it', (layer) => {
    expect(upwards(sources(layer))).toEqual([]);
  });

  test('above vfio/, its parts are known by their faces only', () => {
    expect(intoVfio(all())).toEqual([]);
  });

  test('devices/ know no provider', () => {
    expect(devicesThatKnowProviders(all())).toEqual([]);
  });

  test('vmm/assign/ needs nothing else of vmm/', () => {
    expect(assignThatNeedsTheMachine(all())).toEqual([]);
  });

  test('a machine that starts loads neither rules for devices of the host nor their inventory', () => {
    const isSpared = (path: string) => path.startsWith(RULES) || path.startsWith(INVENTORY);
    expect(loaded(all(), 'vmm/machine-thread.ts').filter(isSpared)).toEqual([]);
    expect(loaded(all(), 'vmm/host-check.ts')).toContain(`${RULES}rules.ts`);
    expect(loaded(all(), 'vmm/cli-devices.ts')).toContain(`${INVENTORY}inventory.ts`);
  });

  test('a machine that starts loads nothing of the connections by which machines move', () => {
    const ends = 'vmm/move/ends.ts';
    expect(loaded(all(), 'vmm/cli-run.ts')).not.toContain(ends);
    expect(loaded(all(), ends)).toContain('vmm/move/address.ts');
  });

  test('only sys/libc.ts knows ffi-rs', () => {
    expect(knowsFfi(all())).toEqual([]);
  });

  test('an address is taken of memory only while something holds the memory', () => {
    expect(rawAddresses(all())).toEqual([]);
  });

  test('only vmm/ knows tsyringe', () => {
    expect(knowsTsyringe(all())).toEqual([]);
  });

  test('examples import the public entries only', () => {
    expect(examplesInside(sources('examples'))).toEqual([]);
  });
});

describe('each rule finds what is planted', () => {
  // Put together here, so that no reader of sources takes it for an import of this file.
  const planted = (path: string, specifier: string): Files =>
    new Map([[path, `import type { X } from '${specifier}';\n`]]);

  test.each([
    ['upwards', upwards, 'kvm/vm.ts', '../sys/fd.js', '../vfio/uapi.js'],
    ['beside', upwards, 'vfio/assign/associate.ts', '../uapi.js', '../../kvm/vfio.js'],
    ['into a part', intoVfio, 'vmm/compose.ts', '../vfio/core/core.js', '../vfio/core/group.js'],
    ['into assign', intoVfio, 'devices/contracts.ts', '../vfio/uapi.js', '../vfio/assign/group-space.js'],
    [
      'provider',
      devicesThatKnowProviders,
      'devices/mtty/device.ts',
      '../../vfio/driver.js',
      '../../vfio/core/core.js',
    ],
    ['machine', assignThatNeedsTheMachine, 'vmm/assign/bus.ts', './ports.js', '../layout.js'],
    ['ffi-rs', knowsFfi, 'kvm/runner.ts', 'node:fs', 'ffi-rs'],
    ['tsyringe', knowsTsyringe, 'vfio/assign/assignment.ts', 'node:fs', 'tsyringe'],
    ['example', examplesInside, 'examples/boot-nic.ts', 'tsvisor', '../vmm/machine.js'],
  ])('%s', (_name, rule, path, allowed, forbidden) => {
    expect(rule(planted(path, allowed))).toEqual([]);
    expect(rule(planted(path, forbidden))).toHaveLength(1);
  });

  test.each([
    ['sys/libc.ts', 'const fixedAddress = 1;', 'export const addressOf = 1;'],
    [
      'kvm/vm.ts',
      'withAddress(bitmap, (address) => use(address));',
      'withAddress(bitmap, (address) => address);',
    ],
    ['kvm/vm.ts', 'address.of(view);', 'libc.addressOf(view);'],
    ['vmm/vcpu-thread.ts', 'new MemoryView(at, 1);', 'memoryAt(at, 1);'],
  ])('raw address in %s', (path, allowed, forbidden) => {
    expect(rawAddresses(new Map([[path, allowed]]))).toEqual([]);
    expect(rawAddresses(new Map([[path, forbidden]]))).toEqual([path]);
  });
});

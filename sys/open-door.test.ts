import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';

const entry = new URL('../dist/kvm/index.js', import.meta.url).href;
const trace = new URL('../dist/vmm/index.js', import.meta.url).href;
const isKoffiInstalled = (() => {
  try {
    return createRequire(import.meta.url).resolve('koffi') !== '';
  } catch {
    return false;
  }
})();
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-doors-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Real, but for what a case changes: it calls through ffi-rs, which a program of a test has loaded. */
const KOFFI = `
  exports.load = () => ({ func: () => globalThis.ioctl ?? (() => -1) });
`;

interface Stage {
  /** Source of a package koffi; undefined for none. */
  readonly koffi?: string;
  /** Source of what \`process.getBuiltinModule('node:ffi')\` returns; undefined for none. */
  readonly nodeFfi?: string;
}

let packages = 0;

/** Runs \`main\` in a new process, which prints JSON. \`outcome(choice)\` is a door's name, or an error. */
function run({ koffi, nodeFfi = 'undefined' }: Stage, main: string) {
  const path = join(folder, `${packages++}`);
  mkdirSync(join(path, 'koffi'), { recursive: true });
  if (koffi !== undefined) writeFileSync(join(path, 'koffi/index.js'), koffi);
  else rmSync(join(path, 'koffi'), { recursive: true });
  const program = `
    const real = process.getBuiltinModule;
    process.getBuiltinModule = (name) => name === 'node:ffi' ? ${nodeFfi} : real(name);
    const { openDoor, DOOR_NAMES } = await import('${entry}');
    const { trace } = await import('${trace}');
    const skipped = [];
    trace.door.subscribe((event) => skipped.push(event));
    // The call that the stand-ins make when they work.
    globalThis.ioctl = (fd, request, argument) => {
      globalThis.calls = (globalThis.calls ?? 0) + 1;
      return openDoor('ffi-rs').prepare(fd, request, Number(argument))() < 0 ? -1 : 0;
    };
    const outcome = (choice) => {
      try {
        return openDoor(choice).name;
      } catch ({ code, call, target, hint, cause }) {
        return { code, call, target, hint, cause: String(cause?.message ?? cause) };
      }
    };
    ${main}`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    env: { ...process.env, NODE_PATH: path },
  });
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
  return JSON.parse(stdout);
}

const ALL = `console.log(JSON.stringify({
  'node:ffi': outcome('node:ffi'), koffi: outcome('koffi'), 'ffi-rs': outcome('ffi-rs'), auto: outcome(), skipped,
}))`;
// As the register is: its upper half is not the result's.
const WORKING_NODE_FFI =
  '({ dlopen: () => ({ functions: { ioctl: (...args) => globalThis.ioctl(...args) === 0 ? 0n : 0xffffffffn } }) })';

// A real one would be found before those of the cases.
describe.skipIf(isKoffiInstalled)('with koffi as each case has it', () => {
  test('where there is no other library, KVM_RUN goes through ffi-rs, and the others are errors that say so', () => {
    expect(run({}, ALL)).toEqual({
      'node:ffi': expect.objectContaining({
        code: 'ENOSYS',
        call: 'dlopen',
        target: 'node:ffi',
        hint: expect.stringContaining(`Node ${process.version} does not have it`),
      }),
      koffi: expect.objectContaining({
        code: 'ENOENT',
        target: 'koffi',
        hint: expect.stringContaining('not installed'),
      }),
      'ffi-rs': 'ffi-rs',
      auto: 'ffi-rs',
      skipped: [],
    });
  });

  test("an installed koffi is taken before ffi-rs, and Node's own before koffi", () => {
    expect(run({ koffi: KOFFI }, ALL)).toMatchObject({ koffi: 'koffi', auto: 'koffi', skipped: [] });
    expect(run({ koffi: KOFFI, nodeFfi: WORKING_NODE_FFI }, ALL)).toMatchObject({
      'node:ffi': 'node:ffi',
      koffi: 'koffi',
      auto: 'node:ffi',
    });
  });

  test.each([
    [
      'throws while it loads',
      'throw new Error("built for another Node\\nand so on")',
      'built for another Node',
    ],
    ['has another interface', 'exports.open = () => {}', /is not a function/],
    [
      'loses errno',
      'exports.load = () => ({ func: () => () => 0 })',
      'a failed call does not return its errno',
    ],
    [
      'loses arguments',
      'exports.load = () => ({ func: () => (fd, request) => globalThis.ioctl(fd, request, 0) })',
      'a call does not pass its arguments',
    ],
    [
      'swaps arguments',
      'exports.load = () => ({ func: () => (fd, request, argument) => globalThis.ioctl(fd, argument, request) })',
      'a call does not pass its arguments',
    ],
  ])(
    'a koffi that %s is skipped, with a reason; by name, it is an error with that cause',
    (_what, koffi, reason) => {
      const text = expect.stringMatching(reason);
      expect(run({ koffi }, ALL)).toMatchObject({
        koffi: { code: 'ENOEXEC', call: 'dlopen', target: 'koffi', hint: text, cause: text },
        auto: 'ffi-rs',
        skipped: [{ door: 'koffi', text }],
      });
    },
  );

  test('an errno that V8 has changed before it is read is had from ffi-rs', () => {
    const koffi = `exports.load = () => ({ func: () => (fd, request, argument) => globalThis.ioctl(fd, request, argument) })`;
    const main = `
      const call = openDoor('koffi').prepare(-1, 0xae80, 0);
      globalThis.ioctl = () => { openDoor('ffi-rs').prepare(1, 0x5421, 0)(); return -1; }; // leaves EFAULT
      console.log(JSON.stringify(call()));`;
    expect(run({ koffi }, main)).toBe(-9);
  });

  test("a node:ffi that Node's permission model forbids is skipped; by name, the error names the option", () => {
    const nodeFfi = `({ dlopen() { throw Object.assign(new Error('restricted'), { code: 'ERR_ACCESS_DENIED' }) } })`;
    expect(run({ nodeFfi }, ALL)).toMatchObject({
      'node:ffi': { code: 'EACCES', hint: expect.stringContaining('--allow-ffi') },
      auto: 'ffi-rs',
      skipped: [{ door: 'node:ffi', text: expect.stringContaining('restricted') }],
    });
  });

  test('a door is looked for once in a thread', () => {
    const koffi = `globalThis.loads = (globalThis.loads ?? 0) + 1; ${KOFFI}`;
    const main = `
      const doors = [openDoor(), openDoor(), openDoor('koffi'), openDoor('auto')];
      console.log(JSON.stringify([new Set(doors).size, globalThis.loads]))`;
    expect(run({ koffi }, main)).toEqual([1, 1]);
  });

  test('a door that does not work is not looked for again by auto', () => {
    const koffi = 'globalThis.loads = (globalThis.loads ?? 0) + 1; throw new Error("no")';
    const main = `openDoor(); openDoor(); console.log(JSON.stringify([globalThis.loads, skipped.length]))`;
    expect(run({ koffi }, main)).toEqual([1, 1]);
  });

  test('Node’s warning of an experimental module is left out, and no other', () => {
    const nodeFfi = `(process.emitWarning('it may change', 'ExperimentalWarning'),
      process.emitWarning('another', 'DeprecationWarning'), ${WORKING_NODE_FFI})`;
    const main = `
      const heard = [];
      process.removeAllListeners('warning');
      process.on('warning', ({ message }) => heard.push(message));
      openDoor();
      process.emitWarning('a later one', 'ExperimentalWarning');
      setImmediate(() => console.log(JSON.stringify(heard)));`;
    expect(run({ nodeFfi }, main)).toEqual(['another', 'a later one']);
  });

  test('Node is asked for a signature that it does not describe to V8, which reads that after it is freed', () => {
    const nodeFfi = `({ dlopen(path, definitions) {
      globalThis.asked = { path, definitions };
      return ${WORKING_NODE_FFI}.dlopen();
    } })`;
    expect(run({ nodeFfi }, 'openDoor(); console.log(JSON.stringify(globalThis.asked))')).toEqual({
      path: 'libc.so.6',
      definitions: { ioctl: { arguments: ['i32', 'u32', 'u64'], return: 'function' } },
    });
  });
});

test.skipIf(!isBuiltin('node:ffi'))(
  "this Node's own library is the one that is used, without a warning",
  () => {
    expect(run({ nodeFfi: 'real(name)' }, ALL)).toMatchObject({ 'node:ffi': 'node:ffi', auto: 'node:ffi' });
  },
);

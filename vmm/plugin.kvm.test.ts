import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { ConfigError } from './config-error.js';
import { DeviceServer } from './device-server.js';
import { CLI } from './testing/machines.js';
import { VirtualMachine } from './virtual-machine.js';

// Outside of the project: nothing in it finds a tsvisor by itself.
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'tsvisor-plugin-')));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function write(path: string, text: string): string {
  const full = join(folder, path);
  mkdirSync(join(full, '..'), { recursive: true });
  writeFileSync(full, text);
  return full;
}

/** @param from the working directory */
function tsvisor(args: readonly string[], from = folder) {
  return spawnSync(process.execPath, [CLI, ...args], { cwd: from, encoding: 'utf8', timeout: 60_000 });
}

const DICE = ['--device', 'dice,sides=20', '--append', 'pings=1'];
const card = /guest \| 00:03\.0 1234:d1ce class ff0000/;
copyFileSync(
  fileURLToPath(new URL('../dist/examples/vendor-driver.js', import.meta.url)),
  join(folder, 'dice.mjs'),
);
const dice = join(folder, 'dice.mjs');

describe('the card of a plug-in is there', () => {
  test('if the plug-in is named from the working directory', () => {
    const { stdout, stderr } = tsvisor(['run', '--plugin', './dice.mjs', ...DICE]);
    expect(stderr).toBe('');
    expect(stdout).toMatch(card);
  });

  test('if a configuration elsewhere names it from its own folder', () => {
    const config = write('below/machine.json', '{ "plugins": ["../dice.mjs"] }');
    const { stdout, stderr } = tsvisor(['run', '--config', config, ...DICE], '/');
    expect(stderr).toBe('');
    expect(stdout).toMatch(card);
  });

  test('if it is a package beside the configuration', () => {
    write(
      'node_modules/dice-card/package.json',
      '{ "name": "dice-card", "exports": { "./card": "./card.mjs" } }',
    );
    copyFileSync(dice, join(folder, 'node_modules/dice-card/card.mjs'));
    const config = write('below/package.json', '{ "plugins": ["dice-card/card"] }');
    expect(tsvisor(['run', '--config', config, ...DICE], '/').stdout).toMatch(card);
  });
});

/** A vendor driver without a device to speak of, whose event task answers what it finds under `tsvisor`. */
const PROBE = `
  import * as vfio from 'tsvisor/vfio';
  const task = new URL('./probe-task.mjs', import.meta.url);
  let environment;
  export const plugin = {
    name: 'probe',
    vendorDrivers: [{
      name: 'probe',
      types: [{ name: 'probe', description: 'probe', deviceApi: 'vfio-pci', maxInstances: 1 }],
      create(_type, _uuid, _options, { eventThread }) {
        using_(eventThread.run(task, {}));
        throw new vfio.SysError({ call: 'probe', target: import.meta.resolve === undefined ? '' : 'plug-in', errno: 5, hint: said });
      },
    }],
  };
  let said = '';
  function using_(running) { said = running.call({}); running[Symbol.dispose](); }
`;
const PROBE_TASK = `
  import * as vfio from 'tsvisor/vfio';
  export const start = () => ({ message: () => Object.keys(vfio).length + ' names', stop() {} });
`;

describe('tsvisor is the running copy', () => {
  write('probe/probe.mjs', PROBE);
  write('probe/probe-task.mjs', PROBE_TASK);
  // Another copy, that nobody would want: nearer to the plug-in than ours.
  write(
    'probe/node_modules/tsvisor/package.json',
    '{ "name": "tsvisor", "exports": { "./vfio": "./vfio.mjs" } }',
  );
  write('probe/node_modules/tsvisor/vfio.mjs', "throw new Error('the wrong copy')");

  test('in a plug-in beside another copy, and in its event task', async () => {
    const { stderr, status } = tsvisor(['run', '--plugin', './probe/probe.mjs', '--device', 'probe']);
    const names = Object.keys(await import('tsvisor/vfio')).length;
    // SysError as text: name and hint cross threads only if the class is the machine thread's own.
    expect(stderr).toBe(`tsvisor: probe on plug-in (plug-in probe): EIO\n  hint: ${names} names\n`);
    expect(status).toBe(69);
  });

  test('and a path of it that is no entry is refused with the entries there are', () => {
    write('odd.mjs', "import 'tsvisor/odd'; export const plugin = { name: 'odd' };");
    const { stderr, status } = tsvisor(['run', '--plugin', './odd.mjs', '--device', 'none']);
    expect(stderr).toMatch(
      /^tsvisor: plug-in \S+\/odd\.mjs cannot be loaded: 'tsvisor\/odd' is none of .* tsvisor, .*tsvisor\/kvm, /,
    );
    expect(status).toBe(64);
  });
});

describe('a plug-in that is wrong is named with the reason', () => {
  test.each([
    ['throws.mjs', "throw new Error('no licence')", /throws\.mjs cannot be loaded: no licence$/],
    ['throws-text.mjs', "throw 'no licence'", /throws-text\.mjs cannot be loaded: it throws no licence$/],
    ['nothing.mjs', 'export default {}', /nothing\.mjs has no export named plugin$/],
    [
      'shape.mjs',
      'export const plugin = { vendorDrivers: {} }',
      /shape\.mjs: its export plugin: name has to be a string, vendorDrivers has to be an array$/,
    ],
    ['misses.mjs', "import './no-such.mjs'", /misses\.mjs cannot be loaded: .*no-such\.mjs/],
    ['syntax.mjs', 'export const', /syntax\.mjs cannot be loaded: Unexpected end of input$/],
  ])('%s', async (name, text, reason) => {
    const vm = VirtualMachine.start({ plugins: [write(name, text)] });
    await expect(vm.finished).rejects.toThrowError(reason);
    expect(tsvisor(['run', '--plugin', `./${name}`]).status).toBe(64);
  });

  const type = "{ name: 'odd', description: 'odd', deviceApi: 'vfio-pci', maxInstances: 1 }";
  const withDriver = (driver: string) =>
    `export const plugin = { name: 'odd', vendorDrivers: [{ name: 'oddity', types: [${type}], ${driver} }] };`;
  const names = [
    'openDevice',
    'closeDevice',
    'getInfo',
    'getRegionInfo',
    'getIrqInfo',
    'setIrqs',
    'read',
    'write',
  ];
  const empty = `{ name: 'odd', ${names.map((name) => `${name}() {}`).join(', ')} }`;
  test.each([
    [
      'drv-null.mjs',
      "export const plugin = { name: 'odd', vendorDrivers: [null] }",
      /vendorDrivers\[0\] is not an object$/,
    ],
    ['drv-no-create.mjs', withDriver(''), /vendorDrivers\[0\]: create has to be a function$/],
    [
      'drv-types.mjs',
      "export const plugin = { name: 'odd', vendorDrivers: [{ name: 'x', create() {}, types: [{ name: 'odd' }] }] }",
      /vendorDrivers\[0\]\.types\[0\]: description has to be a string/,
    ],
    [
      'prov.mjs',
      "export const plugin = { name: 'odd', providers: [{ name: 'x', addresses: 'x', matches() {} }] }",
      /providers\[0\]: resolve has to be a function$/,
    ],
    [
      'create-nothing.mjs',
      withDriver('create() {}'),
      /^plug-in odd: vendor driver oddity: the result of create is not an object$/,
    ],
    [
      'create-async.mjs',
      withDriver('async create() {}'),
      /^plug-in odd: vendor driver oddity: create is asynchronous/,
    ],
    [
      'create-throws.mjs',
      withDriver('create() { return undefined.x; }'),
      /^plug-in odd: Cannot read properties of undefined/,
    ],
    [
      'create-no-ops.mjs',
      withDriver('create() { return { [Symbol.dispose]() {} } }'),
      /^plug-in odd: vendor driver oddity: ops of the result of create is not an object$/,
    ],
    [
      'create-no-dispose.mjs',
      withDriver(`create() { return { ops: ${empty} } }`),
      /has no \[Symbol\.dispose\]\(\)/,
    ],
    [
      'ops-lack.mjs',
      withDriver("create() { return { ops: { name: 'odd', read() {} }, [Symbol.dispose]() {} } }"),
      /^plug-in odd: vendor driver oddity: ops of the result of create: openDevice has to be a function, closeDevice /,
    ],
    [
      'ops-return-nothing.mjs',
      withDriver(`create() { return { ops: ${empty}, [Symbol.dispose]() {} } }`),
      /^plug-in odd: /,
    ],
    [
      'twice.mjs',
      withDriver('create() {}').replace("'oddity'", "'mtty'"),
      /^mdev_register_parent on mtty \(plug-in odd\): EEXIST/,
    ],
  ])('with the function that is missing, or that fails: %s', async (name, text, reason) => {
    const vm = VirtualMachine.start({ plugins: [write(name, text)], devices: [{ address: 'odd' }] });
    await expect(vm.finished).rejects.toThrowError(reason);
  });

  test('if a top-level await does not end, in it or in its event task', async () => {
    const waits = 'await new Promise(() => {});';
    write('waits.mjs', `${waits} export const plugin = { name: "waits" };`);
    write('late/probe.mjs', PROBE);
    write('late/probe-task.mjs', `${waits} export const start = () => {};`);
    const ends = [
      ['--plugin', './waits.mjs'],
      ['--plugin', './late/probe.mjs', '--device', 'probe'],
    ].map(async (args) => {
      const child = spawn(process.execPath, [CLI, 'run', ...args], {
        cwd: folder,
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let text = '';
      child.stderr.setEncoding('utf8').on('data', (piece: string) => {
        text += piece;
      });
      const [status] = await once(child, 'close');
      return { text, status };
    });
    const [itself, task] = await Promise.all(ends);
    const late = 'is not loaded after 10 s: a top-level await in it does not end';
    expect(itself?.text).toBe(
      `tsvisor: plug-in ${folder}/waits.mjs cannot be loaded: file://${folder}/waits.mjs ${late}\n`,
    );
    expect(task?.text).toMatch(
      /^tsvisor: plug-in probe: event thread: .*\/late\/probe-task\.mjs is not loaded after 10 s/,
    );
    expect([itself?.status, task?.status]).toEqual([64, 64]);
  });

  test('before a thread is started, if there is no such module', () => {
    expect(() => VirtualMachine.start({ plugins: ['/no/such.mjs'] })).toThrowError(ConfigError);
    const served = { address: 'dice', path: join(folder, 'socket'), plugins: ['/no/such.mjs'] };
    expect(() => DeviceServer.start(served)).toThrowError(
      /plugins\[0\]: '\/no\/such\.mjs': there is no file/,
    );
    for (const command of [['run'], ['serve', 'dice', '--socket', 'socket']]) {
      const { stderr, stdout, status } = tsvisor([...command, '--plugin', './no.mjs']);
      expect(stderr).toBe(`tsvisor: --plugin: './no.mjs': there is no file ${folder}/no.mjs\n`);
      expect([stdout, status]).toEqual(['', 64]);
    }
  });
});

test('a device of a plug-in is served', async () => {
  const path = join(folder, 'dice.sock');
  let server: DeviceServer | undefined;
  const description = await new Promise<string>((ready, reject) => {
    server = DeviceServer.start({ address: 'dice', path, plugins: [dice] }, { ready });
    server.finished.catch(reject);
  });
  await server?.[Symbol.asyncDispose]();
  expect(description).toMatch(/throws dice/);
});

/** A card's VFs, as other programs find them in the sysfs that `tsvisor serve --vf-sysfs` mounts. */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { DrawingGuest } from '../devices/vgpu/testing/drawing-guest.js';
import { mountProblem, mountsAt } from '../sys/testing/fuse-requests.js';
import { checkHostDevices } from '../vfio/host/check/index.js';
import { hostProvider, Sysfs } from '../vfio/host/index.js';
import { readPciFunction } from '../vfio/host/inventory/index.js';
import { listVfTypes, readVfTypes, setVfType } from '../vfio/host/vf-type.js';
import { userProvider } from '../vfio/user/client/provider.js';
import { noEvents } from '../vfio/user/testing/peer.js';
import { DeviceServer } from './device-server.js';
import { CLI, tsvisor } from './testing/machines.js';

vi.setConfig({ testTimeout: 120_000 }); // a dozen shells each

const problem = mountProblem();
const here = realpathSync(tmpdir());
const [VF, OTHER] = ['0000:41:00.4', '0000:41:00.5'];
const [WHOLE, HALF] = [4, 5];

beforeEach(({ skip }) => {
  if (problem !== undefined) skip(problem);
});

/** An empty folder for a sysfs, and two sockets. At the test's end, nothing may be mounted there. */
function folders() {
  const root = mkdtempSync(join(here, 'vfs-'));
  mkdirSync(join(root, 'sys'));
  onTestFinished(() => {
    const left = mountsAt(root);
    spawnSync('umount', ['-l', join(root, 'sys')]);
    rmSync(root, { recursive: true, force: true });
    expect(left, 'file systems left mounted by this test').toEqual([]);
  });
  const sockets = ['a', 'b'].map((name) => join(root, name));
  return { root, sys: join(root, 'sys'), sockets };
}

/** `tsvisor serve` with two VFs of a card of 64 MiB, and a shell that finds them. */
async function serving(given = folders()) {
  const { sys, sockets } = given;
  const args = [
    '--vf-sysfs',
    sys,
    '--vgpu-card',
    'a,memory=64M',
    ...sockets.flatMap((path) => ['--socket', path]),
  ];
  const child = spawn(process.execPath, [CLI, 'serve', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    await once(child, 'exit');
  });
  let output = '';
  const ready = new Promise<void>((resolve) => {
    child.stdout.on('data', (piece) => {
      output += String(piece);
      if (output.includes(`serves it at ${sys}`)) resolve();
    });
  });
  await Promise.race([ready, once(child, 'exit')]);
  expect(output).toContain(`serves it at ${sys}`);
  const shell = (script: string) =>
    spawnSync('bash', ['-c', `exec 2>&1; cd ${sys}/bus/pci/devices\n${script}`], {
      encoding: 'utf8',
      timeout: 20_000,
    }).stdout.trim();
  return { ...given, child, shell, output: () => output, sysfs: new Sysfs(sys) };
}

const ended = async (child: ChildProcess, signal: NodeJS.Signals) => {
  child.kill(signal);
  await once(child, 'exit');
};

test('a shell makes a VF a vGPU, and what is left for the other one follows', async () => {
  const { shell, sockets, child } = await serving();
  const [first = '', second = ''] = sockets;
  expect(shell('ls')).toBe(`0000:41:00.0\n${VF}\n${OTHER}`);
  expect(shell(`cat ${VF}/nvidia/*`)).toBe(
    [
      'ID    : vGPU Name',
      ...['small', 'medium', 'large', 'whole', 'half', 'quarter', 'eighth'].map(
        (name, i) => `${i + 1}     : vgpu-${name}`,
      ),
      '0',
    ].join('\n'),
  );
  expect(existsSync(first)).toBe(false);
  expect(
    shell(`echo ${HALF} > ${VF}/nvidia/current_vgpu_type; cat ${VF}/nvidia/*; cat ${VF}/vfio_user_socket`),
  ).toBe(`ID    : vGPU Name\n${HALF}\n${first}`);
  expect(existsSync(first)).toBe(true);
  const left = shell(`cat ${OTHER}/nvidia/creatable_vgpu_types`);
  expect(left).toContain('vgpu-half');
  expect(left).not.toMatch(/vgpu-whole|vgpu-large/);
  expect(shell(`echo ${WHOLE} > ${OTHER}/nvidia/current_vgpu_type`)).toMatch(/No space left on device$/);
  expect(shell(`echo 77 > ${OTHER}/nvidia/current_vgpu_type`)).toMatch(/Invalid argument$/);
  expect(shell(`echo half > ${OTHER}/nvidia/current_vgpu_type`)).toMatch(/Invalid argument$/);
  expect(shell(`echo 7 > ${VF}/nvidia/current_vgpu_type`)).toMatch(/Operation not permitted$/);
  expect(shell(`echo 0 > ${VF}/nvidia/current_vgpu_type; cat ${VF}/nvidia/current_vgpu_type`)).toBe('0');
  expect([existsSync(first), existsSync(second)]).toEqual([false, false]);
  expect(
    shell(`echo ${WHOLE} > ${OTHER}/nvidia/current_vgpu_type; cat ${VF}/nvidia/creatable_vgpu_types`),
  ).toBe('ID    : vGPU Name');
  await ended(child, 'SIGTERM');
  expect(existsSync(second)).toBe(false);
});

test('a vGPU that a client has keeps its type and its VF until the client leaves', async () => {
  const { shell, sockets } = await serving();
  expect(shell(`echo ${HALF} > ${VF}/nvidia/current_vgpu_type`)).toBe('');
  const provider = userProvider(noEvents);
  const device = provider.resolve(`vfio-user:${sockets[0]}`, {});
  const guest = new DrawingGuest(provider, device);
  guest.draw(320, 200, 1);
  for (const value of ['0', '7'])
    expect(shell(`echo ${value} > ${VF}/nvidia/current_vgpu_type`)).toMatch(/Device or resource busy$/);
  expect(shell('echo 0 > 0000:41:00.0/sriov_numvfs')).toMatch(/Device or resource busy$/);
  guest.draw(320, 200, 2);
  guest[Symbol.dispose]();
  device[Symbol.dispose]();
  // The server hears of it when it turns to that socket.
  const script = `for i in $(seq 100); do echo 0 > ${VF}/nvidia/current_vgpu_type && break; sleep 0.05; done 2>&-; cat ${VF}/nvidia/current_vgpu_type`;
  expect(shell(script)).toBe('0');
});

test('sriov_numvfs takes the VFs away with their types, and brings as many back as there are sockets', async () => {
  const { shell, sockets, output, child } = await serving();
  expect(shell(`cat 0000:41:00.0/sriov_*; echo ${HALF} > ${VF}/nvidia/current_vgpu_type`)).toBe('2\n2');
  expect(shell('echo 1 > 0000:41:00.0/sriov_numvfs')).toMatch(/Device or resource busy$/);
  expect(shell('echo 0 > 0000:41:00.0/sriov_numvfs; ls')).toBe('0000:41:00.0');
  expect(existsSync(sockets[0] as string)).toBe(false);
  expect(shell('echo 3 > 0000:41:00.0/sriov_numvfs')).toMatch(/Numerical result out of range$/);
  expect(shell(`echo 1 > 0000:41:00.0/sriov_numvfs; ls; cat ${VF}/nvidia/current_vgpu_type`)).toBe(
    `0000:41:00.0\n${VF}\n0`,
  );
  while (!output().includes('the card has 1 VF')) await once(child.stdout, 'data');
  expect(output()).toMatch(/the card has 0 VFs\n(.*\n)*.*the card has 1 VF\n/);
});

test('our own code for such VFs finds them, gives one a type, and takes it back', async () => {
  const { sysfs, sockets, sys } = await serving();
  expect(
    listVfTypes(sysfs).map(({ address, physfn, types }) => [address, physfn, types?.creatable.length]),
  ).toEqual([
    [VF, '0000:41:00.0', 7],
    [OTHER, '0000:41:00.0', 7],
  ]);
  const roots = { sys, proc: '/proc', dev: '/dev', modules: '/lib/modules' };
  const record = readPciFunction(VF, { sysfs, roots });
  expect([record.assignability.state, record.driver]).toEqual(['needs-type', 'nvidia']);
  const device = sysfs.pciDevice(VF);
  {
    using _type = setVfType(sysfs, device, 'vgpu-half');
    expect(readVfTypes(device)).toEqual({ current: HALF, creatable: [] });
    expect(existsSync(sockets[0] as string)).toBe(true);
    expect(() => setVfType(sysfs, sysfs.pciDevice(OTHER), 'vgpu-whole')).toThrowError(
      /EINVAL\n.*those that would fit: vgpu-small \(1\), vgpu-medium/,
    );
  }
  expect(readVfTypes(device)?.current).toBe(0);
  const options = { 'vgpu-type': 'vgpu-half' };
  const report = checkHostDevices({ devices: [{ address: VF, options }] }, { sysfs, roots });
  expect(JSON.stringify(report)).toContain('option vgpu-type makes it a vGPU of nvidia for the run');
  // The host's VFIO has no such device, and the VF is left without a type.
  const provider = hostProvider({ sysfs, roots });
  expect(() => provider.resolve(VF, options)).toThrowError(/EBUSY/);
  expect(readVfTypes(device)?.current).toBe(0);
});

test('in a mount namespace of its own, a program finds them in /sys', async () => {
  const { sys } = await serving();
  const { stdout } = tsvisor(
    ['types'],
    ['unshare', '-m', 'sh', '-c', `mount --bind ${sys} /sys && exec "$@"`, 'sh'],
  );
  expect(stdout).toMatch(new RegExp(`${VF}, VF of 0000:41:00.0, without a type\\n +1 +vgpu-small`));
});

test('what a killed server leaves is ENOTCONN, and the next one mends it', async () => {
  const { sys, root, sockets, child, shell } = await serving();
  expect(shell(`echo ${HALF} > ${VF}/nvidia/current_vgpu_type`)).toBe('');
  await ended(child, 'SIGKILL');
  expect(() => readdirSync(sys)).toThrowError(/ENOTCONN/);
  const next = await serving({ sys, root, sockets });
  expect(
    next.shell(`cat ${VF}/nvidia/current_vgpu_type; echo ${HALF} > ${VF}/nvidia/current_vgpu_type`),
  ).toBe('0');
  await ended(next.child, 'SIGTERM');
  expect([readdirSync(sys), existsSync(sockets[0] as string)]).toEqual([[], false]);
});

test('unmounted by hand, the vGPUs that there are go on', async () => {
  const { sys, shell, sockets, output, child } = await serving();
  expect(shell(`echo ${HALF} > ${VF}/nvidia/current_vgpu_type`)).toBe('');
  expect(spawnSync('umount', [sys], { timeout: 10_000 }).status).toBe(0);
  const provider = userProvider(noEvents);
  using device = provider.resolve(`vfio-user:${sockets[0]}`, {});
  using guest = new DrawingGuest(provider, device);
  guest.draw(320, 200, 1);
  while (!output().includes('was unmounted')) await once(child.stdout, 'data');
  expect(output()).toMatch(/sys was unmounted: its VFs keep the types that they have/);
});

test('a server whose folder another one has by now leaves it the other one’s', async () => {
  const { sys, root, child } = await serving();
  const held = openSync(join(sys, 'bus/pci/devices/0000:41:00.0/vendor'), 'r');
  expect(spawnSync('umount', ['-l', sys]).status).toBe(0); // the first server goes on as long as that is open
  const next = await serving({ sys, root, sockets: [join(root, 'c')] });
  await ended(child, 'SIGTERM');
  closeSync(held);
  expect(next.shell('ls')).toBe(`0000:41:00.0\n${VF}`);
});

test('without the right to mount, the error says what gives it', () => {
  const { sys, sockets } = folders();
  const args = ['serve', '--vf-sysfs', sys, '--socket', sockets[0] as string];
  const { status, stderr } = tsvisor(args, ['setpriv', '--bounding-set', '-sys_admin', '--']);
  expect(stderr).toMatch(/mount on fuse\.tsvisor at .*: EPERM\n.*CAP_SYS_ADMIN/);
  expect(status).toBe(69);
});

test.each([
  ['of no driver', 'mknod -m 600 $F c 10 254', /ENODEV\n.*modprobe fuse/],
  ['without rights', 'touch $F; chmod 0 $F', /EACCES\n.*may not open/],
])('with a /dev/fuse %s, the error says so', (_what, make, message) => {
  const { root, sys, sockets } = folders();
  const [device, args] = [join(root, 'fuse'), ['serve', '--vf-sysfs', sys, '--socket', sockets[0] as string]];
  const without = ['setpriv', '--bounding-set', '-dac_override,-dac_read_search', '--inh-caps', '-all', '--'];
  const script = `F=${device}; ${make}; mount --bind ${device} /dev/fuse && exec ${without.join(' ')} "$@"`;
  const { status, stderr } = tsvisor(args, ['unshare', '-m', 'sh', '-c', script, 'sh']);
  expect(stderr).toMatch(message);
  expect(status).toBe(69);
});

test('in a program: VFs are slots, and their displays are those of the vGPUs', async () => {
  const { sys, sockets } = folders();
  let isReady: () => void = () => {};
  const ready = new Promise<void>((resolve) => {
    isReady = resolve;
  });
  await using server = DeviceServer.startVfs(
    { folder: sys, sockets, id: '10DE:26b9' },
    { ready: () => isReady() },
  );
  await Promise.race([ready, server.finished]);
  await expect(server.capture(1)).rejects.toThrowError(/ENODEV\n.*devices are: none now/);
  const write = `echo ${HALF} > ${sys}/bus/pci/devices/${OTHER}/nvidia/current_vgpu_type`;
  await promisify(execFile)('bash', ['-c', write]);
  await expect(server.capture(1)).rejects.toThrowError(/ENODATA/);
  const read = `cd ${sys}/bus/pci/devices/${OTHER}; cat vendor device class; cat ../0000:41:00.0/vendor`;
  const { stdout } = await promisify(execFile)('bash', ['-c', read]);
  expect(stdout).toBe('0x10de\n0x26b9\n0x030200\n0x10de\n');
  await expect(server.capture(0)).rejects.toThrowError(/device 0: ENODEV\n.*1 vgpu-half/);
  const provider = userProvider(noEvents);
  using device = provider.resolve(`vfio-user:${sockets[1]}`, {});
  using guest = new DrawingGuest(provider, device);
  guest.draw(320, 200, 1);
  expect(await server.displays()).toMatchObject([{ slot: 1, name: 'vgpu-half' }]);
  expect((await server.capture(1)).plane.height).toBe(200);
  await server[Symbol.asyncDispose]();
  expect(readdirSync(sys)).toEqual([]);
});

test.each([
  ['when it hears that all is ready', `DeviceServer.startVfs(options, { ready: () => process.exit(7) });`],
  [
    'before it hears that',
    `DeviceServer.startVfs(options);
     while (!readFileSync('/proc/self/mountinfo', 'utf8').includes(options.folder));
     process.exit(7);`,
  ],
])('a program that exits %s leaves nothing mounted', (_when, run) => {
  const { root, sys, sockets } = folders();
  const program = `
    import { readFileSync } from 'node:fs';
    import { DeviceServer } from ${JSON.stringify(join(import.meta.dirname, '../dist/vmm/index.js'))};
    const options = { folder: ${JSON.stringify(sys)}, sockets: ${JSON.stringify(sockets)} };
    ${run}`;
  writeFileSync(join(root, 'program.mjs'), program);
  const { status } = spawnSync(process.execPath, [join(root, 'program.mjs')], { timeout: 20_000 });
  expect(status).toBe(7);
  expect(readdirSync(sys)).toEqual([]);
});

test.each([
  [{ sockets: [] }, /sockets.*there are 0: a card has 1 to 32 VFs/],
  [{ id: '10de' }, /id.*'10de' is no PCI ID/],
  [{ vgpuCards: [{ name: 'a' }, { name: 'b' }] }, /vgpuCards\[1\].*VFs are those of one card/],
] as const)('%j cannot be', (options, message) => {
  const { sys, sockets } = folders();
  expect(() => DeviceServer.startVfs({ folder: sys, sockets, ...options })).toThrowError(message);
});

test('sockets that are one in fact, or whose full path is too long, are refused before a VF gets a type', () => {
  const { root, sys } = folders();
  const long = join(root, 'x'.repeat(80));
  mkdirSync(long);
  symlinkSync(long, join(root, 'short'));
  symlinkSync('.', join(root, 'here'));
  const sockets = [`${root}/short/${'y'.repeat(20)}`, `${root}/a`, `${root}/here/a`];
  expect(() => DeviceServer.startVfs({ folder: sys, sockets })).toThrowError(
    /sockets\[0\].*at most 107 bytes.*\n.*sockets\[1\].*is there twice\n.*sockets\[2\].*is there twice/,
  );
});

test.each(['sys', 'sys/a', 'link/a'])('a socket at %s, where the sysfs is to be, is refused', (name) => {
  const { root, sys } = folders();
  symlinkSync(sys, join(root, 'link'));
  for (const folder of [sys, join(root, 'link')])
    expect(() => DeviceServer.startVfs({ folder, sockets: [`${root}/${name}`] })).toThrowError(
      /sockets\[0\].* is in the folder of the VFs/,
    );
});

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { CLI, tsvisor } from './testing/machines.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const isRoot = process.getuid?.() === 0;
const hasIp = spawnSync('ip', ['-V']).status === 0;

test('without options the guest pings, prints a readable report, and the exit code is 0', () => {
  const { stdout, stderr, status } = tsvisor(['run']);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  for (const line of [
    /tsvisor: built-in guest, 1 vCPU, 64 MiB/,
    /guest \| 10\/10 replies/,
    /verdict +ok, exit code 0/,
    /0 KVM exits for all of it/,
    /BAR4/,
  ]) {
    expect(stdout).toMatch(line);
  }
});

test('a corrupted reply makes the verdict, and so the exit code, a failure', () => {
  const { stdout, status } = tsvisor(['run', '--net', 'responder:corrupt=2']);
  expect(status).toBe(1);
  expect(stdout).toMatch(/9\/10 replies/);
});

test('--json prints one report, --quiet only the guest’s output', () => {
  const json = tsvisor(['run', '--json', '--append', 'pings=1']);
  expect(JSON.parse(json.stdout)).toMatchObject({ outcome: { kind: 'verdict', status: 0 } });
  const quiet = tsvisor(['run', '--quiet', '--append', 'pings=1']);
  expect(quiet.stdout).toMatch(/^TSC \d+ kHz\n/);
  expect(quiet.stdout).not.toMatch(/ ms {2}/);
});

test('a second device is present too, and a serial card reports its terminal', () => {
  const card = ['--device', 'mtty-2,port0=pty'];
  const { stdout, status } = tsvisor(['run', '--device', 'virtio-net', ...card, '--append', 'pings=1']);
  expect(stdout).toMatch(/mtty-2: port 0 is \/dev\/pts\/\d+\n/);
  expect(stdout).toMatch(/00:04\.0 mtty-2: BAR1 8 bytes I\/O: 8 bytes trapped/);
  expect(stdout).toMatch(/guest \| 00:04\.0 4348:3253 class 070002/);
  expect(status).toBe(0);
});

test('--device none is a machine without devices', () => {
  const { stdout, status } = tsvisor(['run', '--device', 'none', '--append', 'halt-test']);
  expect(stdout).not.toMatch(/group \d+/);
  expect(status).toBe(0);
});

test.each([
  [['--initrd', '/no/such'], /initrd: goes with a kernel/, 64],
  [['--kernel', '/no/such'], /kernel \/no\/such: ENOENT/, 69],
  [['--kernel', CLI], /is not a Linux kernel/, 69],
  [['--kernel', CLI, '--guest', CLI], /guest: there is a kernel, too/, 64],
] as const)('run %j is rejected before anything is opened', (args, reason, code) => {
  const { stderr, status } = tsvisor(['run', ...args]);
  expect(stderr).toMatch(reason);
  expect(status).toBe(code);
});

test('every mistake in the configuration is listed, and the exit code is 64', () => {
  const { stderr, status } = tsvisor(['run', '--memory', '0', '--cpus', 'many', '--trace', 'nothing']);
  expect(status).toBe(64);
  expect(stderr).toMatch(/memory: is empty/);
  expect(stderr).toMatch(/vcpus: /);
  expect(stderr).toMatch(/trace\[0\]: /);
});

test.each([
  [['--memory', '4097'], /not a multiple of the page size/],
  [['--memory', '999T'], /more than the \d+ MiB this host has/],
  [['--wheels', '4'], /Unknown option '--wheels'/],
  [['--device', 'virtio-net,net'], /'net' is not of the form key=value/],
  [['--config', '/no/such.json'], /configuration \/no\/such\.json: ENOENT/],
  [['--guest', '/no/such.elf'], /guest image \/no\/such\.elf: ENOENT/],
  [['--device', '0000:99:00.0'], /PCI device 0000:99:00\.0: ENODEV/],
  [['--net', 'tap:'], /a tap needs its interface name/],
])('run %j is rejected with a reason', (args, reason) => {
  const { stderr, status, stdout } = tsvisor(['run', ...args]);
  expect(stderr).toMatch(reason);
  expect(stderr).not.toMatch(/\n +at /); // no stack trace for the user
  expect(stdout).not.toMatch(/guest \|/);
  expect(status).toBeGreaterThanOrEqual(64);
});

test('a truncated guest image is rejected', () => {
  const image = readFileSync(fileURLToPath(new URL('./guest/guest.elf', import.meta.url)));
  const path = join(folder, 'cut.elf');
  writeFileSync(path, image.subarray(0, 5000));
  const { stderr, status } = tsvisor(['run', '--guest', path]);
  expect(stderr).toMatch(/cut\.elf: is cut short: 5000 bytes/);
  expect(status).toBe(69);
});

/** Runs the CLI with a private /dev, in a mount namespace. */
function withDev(makeKvm: string): ReturnType<typeof tsvisor> {
  const script = `mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && ${makeKvm} && exec "$@"`;
  return tsvisor(['run'], ['unshare', '--mount', 'sh', '-c', script, 'sh']);
}

test.skipIf(!isRoot)('without /dev/kvm the error names the module to load (skipped unless root)', () => {
  const { stderr, status } = withDev('true');
  expect(stderr).toMatch(/open on \/dev\/kvm: ENOENT\n {2}hint: load the module/);
  expect(status).toBe(69);
});

test.skipIf(!isRoot)(
  'without access to /dev/kvm the error names the group to join (skipped unless root)',
  () => {
    const drop = 'setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all';
    const make = 'mknod -m 600 /dev/kvm c 10 232 && chown 65534:65534 /dev/kvm';
    const script = `mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && ${make} && exec ${drop} "$@"`;
    const { stderr, status } = tsvisor(['run'], ['unshare', '--mount', 'sh', '-c', script, 'sh']);
    expect(stderr).toMatch(/open on \/dev\/kvm: EACCES\n {2}hint: join the group kvm/);
    expect(status).toBe(69);
  },
);

test.skipIf(!isRoot || !hasIp)(
  "the host's own kernel answers the guest over TAP (skipped unless root with ip)",
  () => {
    const script = [
      'ip link set lo up',
      'ip tuntap add tap0 mode tap',
      'ip addr add 192.168.77.1/24 dev tap0',
      'ip link set tap0 up',
      'exec "$@"',
    ].join(' && ');
    const args = ['run', '--net', 'tap:tap0', '--append', 'nodhcp ip=192.168.77.2 gw=192.168.77.1'];
    const { stdout, stderr, status } = tsvisor(args, ['unshare', '--net', 'sh', '-c', script, 'sh']);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/10\/10 replies/);
    expect(stdout).toMatch(/from 192\.168\.77\.1: ok/);
    expect(status).toBe(0);
  },
);

test.skipIf(!isRoot || !hasIp)(
  'a TAP that another process has open is reported (skipped unless root with ip)',
  () => {
    const net = new URL('../dist/devices/net/index.js', import.meta.url).href;
    const hold = `import('${net}').then(({ tap }) => { tap.open('tap0'); console.log('held'); setInterval(() => {}, 1000); })`;
    const script = [
      'ip tuntap add tap0 mode tap',
      `"$1" -e "${hold}" > "$HOLDER" & holder=$!`,
      'while ! grep -q held "$HOLDER"; do sleep 0.1; done',
      '"$@"; status=$?',
      'kill $holder',
      'exit $status',
    ].join('\n');
    const holder = join(folder, 'holder');
    const wrapper = ['env', `HOLDER=${holder}`, 'unshare', '--net', 'sh', '-c', script, 'sh'];
    const { stderr, status } = tsvisor(['run', '--net', 'tap:tap0'], wrapper);
    expect(stderr).toMatch(/TUNSETIFF on tap tap0: EBUSY\n {2}hint: another process has it open/);
    expect(status).toBe(69);
  },
);

/** Starts a guest that waits without exits. Resolves once it does. */
async function startWaitingGuest(): Promise<{ child: ChildProcess; ended: Promise<unknown[]> }> {
  const args = [CLI, 'run', '--net', 'responder:drop=1', '--append', 'spin pings=1'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  await new Promise<void>((resolve) => {
    let text = '';
    child.stdout.on('data', (piece) => {
      text += String(piece);
      if (text.includes('ARP: gateway')) resolve();
    });
  });
  return { child, ended };
}

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s stops the machine cleanly, with exit code %i', async (signal, code) => {
  const { child, ended } = await startWaitingGuest();
  child.kill(signal);
  expect(await ended).toEqual([code, null]);
});

test('a closed stdout ends the machine silently, like SIGPIPE', async () => {
  const { child, ended } = await startWaitingGuest();
  child.stdout?.destroy();
  expect(await ended).toEqual([141, null]);
});

test('a process that exits ends its running machine', () => {
  const vm = new URL('../dist/vmm/index.js', import.meta.url).href;
  const program = `const { VirtualMachine } = await import('${vm}');
    VirtualMachine.start({ devices: [{ address: 'virtio-net', options: { net: 'responder:drop=1' } }], cmdline: 'spin' });
    setTimeout(() => process.exit(7), 700);`;
  const { status, signal } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    timeout: 20_000,
  });
  expect([status, signal]).toEqual([7, null]);
});

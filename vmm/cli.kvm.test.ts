import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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
    /KVM_RUN through (?:node:ffi|koffi|ffi-rs)\n/,
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

test('--pcap captures each frame of the NIC', () => {
  const path = join(folder, 'frames.pcap');
  const { status, stdout } = tsvisor(['run', '--json', '--pcap', path, '--append', 'pings=2']);
  expect(status).toBe(0);
  const [device] = JSON.parse(stdout).devices;
  const { txPackets, rxPackets, txBytes, rxBytes } = device.counters;
  const capture = readFileSync(path);
  let [frames, bytes] = [0, 0];
  for (let at = 24; at < capture.length; at += 16 + capture.readUInt32LE(at + 8), frames++)
    bytes += capture.readUInt32LE(at + 12);
  expect([frames, bytes]).toEqual([txPackets + rxPackets, txBytes + rxBytes]);
});

test('the report names the library that called KVM_RUN, with each number of vCPUs', () => {
  for (const cpus of ['1', '2']) {
    const args = ['run', '--json', '--ffi', 'ffi-rs', '--cpus', cpus, '--append', 'halt-test'];
    expect(JSON.parse(tsvisor(args).stdout)).toMatchObject({ ffi: 'ffi-rs' });
  }
});

test('a library for KVM_RUN that does not work is skipped with a line of --log-level debug; by name, it is an error', () => {
  const koffi = join(folder, 'koffi');
  mkdirSync(koffi);
  writeFileSync(join(koffi, 'index.js'), 'throw new Error("built for another Node")');
  const env = ['env', `NODE_PATH=${folder}`, `NODE_OPTIONS=--require=${withoutNodeFfi()}`];
  const auto = tsvisor(['run', '--log-level', 'debug', '--append', 'halt-test'], env);
  expect(auto).toMatchObject({ status: 0, stderr: '' });
  expect(auto.stdout).toMatch(
    /trace door \{"door":"koffi","text":"skipped, as it does not work here: built for another Node"\}/,
  );
  expect(auto.stdout).toMatch(/KVM_RUN through ffi-rs/);
  const named = tsvisor(['run', '--ffi', 'koffi', '--append', 'halt-test'], env);
  expect(named).toMatchObject({ status: 69, stdout: '' });
  expect(named.stderr).toMatch(/^tsvisor: dlopen on koffi: ENOEXEC\n {2}hint: .*\(built for another Node\)/);
});

/** A module that takes node:ffi from a Node that has it, in each thread. */
function withoutNodeFfi(): string {
  const path = join(folder, 'without-node-ffi.cjs');
  writeFileSync(
    path,
    `const real = process.getBuiltinModule;
     process.getBuiltinModule = (name) => (name === 'node:ffi' ? undefined : real(name));`,
  );
  return path;
}

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
  [['--device', '0000:99:00.0'], /PCI device 0000:99:00\.0: ENODEV/],
  [['--device', 'vfio-user:/no/such'], /connect on \/no\/such: ENOENT/],
])('run %j is refused for what the host lacks', (args, reason) => {
  const { stderr, status, stdout } = tsvisor(['run', ...args]);
  expect(stderr).toMatch(reason);
  expect(stderr).not.toMatch(/\n +at /); // no stack trace for the user
  expect(stdout).not.toMatch(/guest \|/);
  expect(status).toBe(69);
});

test('a truncated guest image is rejected', () => {
  const image = readFileSync(fileURLToPath(new URL('./guest/guest.elf', import.meta.url)));
  const path = join(folder, 'cut.elf');
  writeFileSync(path, image.subarray(0, 5000));
  const { stderr, status } = tsvisor(['run', '--guest', path]);
  expect(stderr).toMatch(/cut\.elf: is cut short: 5000 bytes/);
  expect(status).toBe(64);
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
  'without access to /dev/kvm the error says what its owner, group and mode ask for (skipped unless root)',
  () => {
    const drop = 'setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all';
    for (const [mode, owner, hint] of [
      ['660', 'nobody:mail', /join the group mail \(usermod -aG mail "\$USER"/],
      ['600', 'nobody:mail', /belongs to user 65534 and group mail, with mode 600: run as root `chgrp kvm/],
      ['640', 'nobody:mail', /and group mail, with mode 640: /],
      ['600', 'nobody:root', /belongs to user 65534 and group root, with mode 600: /],
      ['660', 'nobody:4711', /join the group 4711 /],
    ] as const) {
      const make = `mknod -m ${mode} /dev/kvm c 10 232 && chown ${owner} /dev/kvm`;
      const script = `mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && ${make} && exec ${drop} "$@"`;
      const { stderr, status } = tsvisor(['run'], ['unshare', '--mount', 'sh', '-c', script, 'sh']);
      expect(stderr).toMatch(/^tsvisor: open on \/dev\/kvm: EACCES\n {2}hint: /);
      expect(stderr).toMatch(hint);
      expect(status).toBe(69);
    }
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

const toDevFull = (args: readonly string[]) => tsvisor(args, ['sh', '-c', 'exec "$@" > /dev/full', 'sh']);

test.each([
  ['run', '--json', '--append', 'pings=1'],
  ['run', '--append', 'pings=1'],
  ['run', '--quiet', '--append', 'pings=1'],
  ['run', '--help'],
  ['--version'],
])('output that cannot be written is a failure with a sentence: %s %s', (...args) => {
  const { stderr, status } = toDevFull(args);
  expect(stderr).toMatch(/^tsvisor: write on stdout: ENOSPC\n/);
  expect(status).toBe(74);
});

test('a server whose messages cannot be written ends, and removes its socket', () => {
  const path = join(folder, 'full.sock');
  const { stderr, status } = toDevFull(['serve', 'virtio-net', '--socket', path]);
  expect(stderr).toMatch(/^tsvisor: write on stdout: ENOSPC\n/);
  expect(status).toBe(74);
  expect(existsSync(path)).toBe(false);
});

test.skipIf(!isRoot)(
  'a report that a full disk takes only the beginning of is a failure (skipped unless root)',
  () => {
    const mount = `mount -t tmpfs -o size=4k full ${folder}`;
    const script = `${mount} && head -c 4000 /dev/zero > ${folder}/fill && exec "$@" > ${folder}/report`;
    const { stderr, status } = tsvisor(
      ['run', '--append', 'pings=1'],
      ['unshare', '-m', 'sh', '-c', script, 'sh'],
    );
    expect(stderr).toMatch(/^tsvisor: write on stdout: ENOSPC\n/);
    expect(status).toBe(74);
  },
);

test('a reader that takes nothing of the report makes the status of SIGPIPE', () => {
  const script = '("$@"; echo "status $?" >&2) | true';
  const { stderr } = tsvisor(['run', '--json', '--append', 'pings=1'], ['sh', '-c', script, 'sh']);
  expect(stderr).toBe('status 141\n');
});

test('an error with --json is one line of JSON, as the report is', () => {
  const wrong = tsvisor(['run', '--json', '--cpus', 'many', '--net', 'tap:']);
  expect(JSON.parse(wrong.stdout)).toMatchObject({
    error: { status: 64, code: 'ECONFIG', problems: [{ path: '--cpus' }] },
  });
  const missing = tsvisor(['run', '--json', '--device', '0000:99:00.0']);
  expect(JSON.parse(missing.stdout)).toMatchObject({
    error: { status: 69, code: 'ENODEV', call: 'find', target: 'PCI device 0000:99:00.0' },
  });
  for (const { stdout, stderr } of [wrong, missing]) {
    expect(stdout.trimEnd().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(/^tsvisor: /);
  }
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

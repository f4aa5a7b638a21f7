/** Machines in a sandbox: what is refused to code inside, what still works, and how they end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { landlockAbi } from '../sys/landlock.js';
import { ApiClient } from './api/client.js';
import { attempts, FAILED, KEPT_FROM, named, writeAttacker } from './testing/attacker.js';
import { echoGuest } from './testing/echo-guest.js';
import { CLI, tsvisor } from './testing/machines.js';
import { openTerminal } from './testing/terminal.js';
import { VirtualMachine } from './virtual-machine.js';

/** For a test that runs the program several times. */
const SWEEP_MS = 120_000;
const POLL = { timeout: 60_000 };
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'tsvisor-sandbox-')));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const hasLandlock = landlockAbi() > 0;
const needsLandlock = hasLandlock ? '' : ' (skipped: this kernel has no Landlock)';
const SECRET = join(folder, 'secret');
const ALLOWED = join(folder, 'allowed');

const ATTEMPTS = attempts({ secret: SECRET, allowed: ALLOWED, folder });
const attacker = (what: readonly string[]): string => writeAttacker(folder, what);

beforeAll(() => {
  for (const path of [SECRET, ALLOWED]) writeFileSync(path, '');
});

describe('code inside', () => {
  test('is refused files, programs, sockets and other processes, and the guest still has its NIC', () => {
    const plugin = attacker(ATTEMPTS);
    const args = ['run', '--sandbox', `on,read=${ALLOWED}`, '--plugin', plugin, '--append', 'pings=3'];
    const { stdout, stderr, status } = tsvisor(args);
    const results = JSON.parse(stderr) as Record<string, string>;
    expect(results).toMatchObject(hasLandlock ? { ...FAILED, ...KEPT_FROM } : FAILED);
    expect(stdout).toMatch(/^tsvisor: sandbox: system calls that no machine needs fail; /m);
    expect(stdout).toMatch(/3\/3 replies/);
    expect(status).toBe(0);
  });

  test('can do all that without a sandbox: the attempts are real', () => {
    const names = ['read a file', 'read a folder', 'write beside itself', 'spawn', 'socket AF_INET', 'chmod'];
    const args = ['run', '--plugin', attacker(named(ATTEMPTS, ...names, 'execve')), '--append', 'halt-test'];
    const { stderr, status } = tsvisor(args);
    const done = Object.fromEntries(names.map((name) => [name, 'done']));
    expect(JSON.parse(stderr)).toEqual({ ...done, execve: 'EFAULT' });
    expect(status).toBe(0);
  });

  test.each(['execve', 'ptrace', 'TIOCSTI'])('ends the process by %s if the sandbox is strict', (name) => {
    const plugin = attacker(named(ATTEMPTS, name));
    const { signal, stderr } = tsvisor(['run', '--sandbox', 'strict', '--plugin', plugin]);
    expect([signal, stderr]).toEqual(['SIGSYS', '']);
  });

  test('can do what is only logged', () => {
    const plugin = attacker(["await attempt('setrlimit', () => call(160, 7, 0));"]);
    const { stderr } = tsvisor(['run', '--sandbox', 'log', '--plugin', plugin, '--device', 'none']);
    // It is the kernel that refuses the address.
    expect(JSON.parse(stderr)).toEqual({ setrlimit: 'EFAULT' });
  });
});

/** Starts a guest that never ends by itself. Resolves once it runs. */
async function startWaiting(args: readonly string[]): Promise<[ChildProcess, Promise<unknown[]>]> {
  const words = ['--net', 'responder:drop=1', '--append', 'spin pings=1'];
  const open = openSync(SECRET, 'r');
  const child = spawn(process.execPath, [CLI, 'run', ...args, ...words], {
    stdio: ['ignore', 'pipe', 'inherit', open, open],
  });
  closeSync(open);
  const ended = once(child, 'exit');
  let text = '';
  for await (const piece of child.stdout as NodeJS.ReadableStream) {
    text += String(piece);
    if (text.includes('ARP: gateway')) break;
  }
  child.stdout?.resume();
  return [child, ended];
}

describe('a machine in a strict sandbox', () => {
  test('has every thread in it, and keeps no descriptor of its parent’s; SIGTERM ends it in order', async () => {
    const [child, ended] = await startWaiting(['--sandbox', 'strict', '--cpus', '2']);
    const tasks = `/proc/${child.pid}/task`;
    const states = readdirSync(tasks).map((task) => readFileSync(`${tasks}/${task}/status`, 'latin1'));
    expect(states.length).toBeGreaterThan(5);
    for (const state of states) expect(state).toMatch(/^NoNewPrivs:\t1\nSeccomp:\t2$/m);
    expect(states.map((state) => /^Name:\t(.*)/.exec(state)?.[1])).toEqual(
      expect.arrayContaining(['tsvisor-machine', 'tsvisor-event', 'tsvisor-cpu1']),
    );
    const fds = `/proc/${child.pid}/fd`;
    expect(readdirSync(fds).map((fd) => readlinkSync(`${fds}/${fd}`))).not.toContain(SECRET);
    child.kill('SIGTERM');
    expect(await ended).toEqual([143, null]);
  });

  const picture = join(folder, 'picture.png');
  const config = join(folder, 'machine.json');
  writeFileSync(config, '{ "sandbox": "strict", "memory": "32M" }');

  test.each([
    ['one vCPU', []],
    ['several vCPUs', ['--cpus', '3', '--append', 'udp=50,1024,8 tcp=100000']],
    ['memory of its own size', ['--memory', '96M,shared=on,prefault=on']],
    ['a picture that is new', ['--device', 'vgpu-small', '--screenshot', picture]],
    ['a picture that is replaced, and a page', ['--device', 'vgpu-small', '--screenshot', picture, '--view']],
    ['a serial card', ['--device', 'mtty-2,port0=pty', '--append', 'halt-test']],
    ['a trace and JSON', ['--trace', 'exit', '--json', '--append', 'halt-test']],
  ])(
    'passes with %s',
    (_what, args) => {
      const { stdout, status, signal } = tsvisor(['run', '--sandbox', 'strict', ...args]);
      expect([status, signal], stdout).toEqual([0, null]);
      if (args.includes(picture)) expect(readFileSync(picture).subarray(1, 4).toString()).toBe('PNG');
    },
    SWEEP_MS,
  );

  test('shows its picture on a page', async () => {
    const args = [
      'run',
      '--sandbox',
      'strict',
      '--device',
      'vgpu-small',
      '--append',
      'frames=100000',
      '--view',
    ];
    const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    let text = '';
    // Not by iteration, which closes the pipe at its end, and with it the machine.
    const url = await new Promise<string>((resolve) => {
      child.stdout.on('data', (piece) => {
        text += String(piece);
        const [, found] = /its page is at (\S+)\n/.exec(text) ?? [];
        if (found !== undefined && text.includes('guest |')) resolve(found);
      });
    });
    const page = await fetch(url);
    expect([page.status, await page.text()]).toEqual([200, expect.stringContaining('<html')]);
    for (const file of ['page.css', 'page.js']) expect((await fetch(`${url}${file}`)).status).toBe(200);
    child.kill('SIGTERM');
    expect(await ended).toEqual([143, null]);
  });

  test(
    'is controlled over its API: attaches and detaches, pauses, types, resets; what it may not have is an error',
    async () => {
      const path = join(folder, 'api');
      const args = [
        '--sandbox',
        'strict',
        '--device',
        'vgpu-small',
        '--append',
        'frames=100000',
        '--memory',
        '64M,shared=on',
      ];
      const child = spawn(process.execPath, [CLI, 'run', '--quiet', '--api', `unix:${path}`, ...args], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let text = '';
      child.stdout.on('data', (piece) => {
        text += String(piece);
      });
      onTestFinished(() => void child.kill('SIGKILL'));
      const ended = once(child, 'exit');
      // Before that, the guest looks for its devices, which must not change meanwhile.
      while (!text.includes('display: ') && child.exitCode === null) await sleep(20);
      const client = new ApiClient(path);
      const get = async (what: string) =>
        JSON.parse((await client.call('GET', `/v1/${what}`)).body.toString());
      const attach = (body: object) => client.call('POST', '/v1/devices', body);
      await client.call('PUT', '/v1/pause');
      expect(await get('info')).toMatchObject({ state: 'paused', config: { sandbox: { mode: 'strict' } } });
      await client.call('PUT', '/v1/resume');
      const nic = { address: 'virtio-net', options: { net: 'responder' } };
      await attach([nic, { address: 'mtty-1' }, { ...nic, interface: 'iommufd' }]);
      for (const slot of [3, 4, 5, 6])
        expect((await get('devices')).map((d: { slot: number }) => d.slot)).toContain(slot);
      for (const slot of [6, 5, 4]) await client.call('DELETE', `/v1/devices/${slot}?force=true`);
      await client.call('POST', '/v1/console', Buffer.from('hello'));
      await expect
        .poll(
          () =>
            client.call('GET', '/v1/screenshot').then(
              ({ type }) => type,
              (error) => `${error}; ${child.exitCode ?? child.signalCode ?? 'running'}: ${text}`,
            ),
          POLL,
        )
        .toBe('image/png');
      expect((await get('memory')).length).toBeGreaterThan(1);
      expect((await get('timeline')).events.length).toBeGreaterThan(10);
      const says = /the sandbox forbids what the configuration does not name: see docs\/sandbox\.md/;
      // A socket by seccomp, without ending the process; files by Landlock.
      await expect(attach({ address: 'vfio-user:/no/such' })).rejects.toThrow(says);
      if (hasLandlock) {
        await expect(attach({ address: 'mtty-1', options: { port0: 'pty' } })).rejects.toThrow(says);
        await expect(attach({ ...nic, options: { net: 'tap:tap77' } })).rejects.toThrow(says);
      }
      await expect(attach({ ...nic, options: { net: 'passt' } })).rejects.toThrow(
        /starts a program, which a sandbox forbids/,
      );
      expect((await get('devices')).length).toBe(1);
      await client.call('PUT', '/v1/reset');
      await expect.poll(() => get('info'), POLL).toMatchObject({ restarts: 1, state: 'running' });
      await client.call('PUT', '/v1/stop');
      expect(await ended).toEqual([0, null]);
      expect(existsSync(path)).toBe(false);
    },
    SWEEP_MS,
  );

  test.each(['pty', 'unix'])(
    'has a serial port at %s',
    async (end) => {
      const [guest, path] = [join(folder, 'echo.elf'), join(folder, 'com1')];
      writeFileSync(guest, echoGuest(0));
      const serial = end === 'pty' ? 'pty' : `unix:${path}`;
      const args = ['run', '--sandbox', 'strict', '--guest', guest, '--serial', serial];
      const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
      onTestFinished(() => void child.kill('SIGKILL'));
      const ended = once(child, 'exit');
      let text = '';
      child.stdout.on('data', (piece) => {
        text += String(piece);
      });
      const line = () => /COM1 is (\S+)\n/.exec(text)?.[1];
      await expect.poll(line, POLL).toBeDefined();
      if (end === 'pty') {
        using terminal = openTerminal(line() as string);
        await terminal.types('hello');
        await terminal.says('hello');
        await terminal.types('\x04');
      } else {
        const socket = connect(path);
        const heard: Buffer[] = [];
        socket.on('data', (piece: Buffer) => heard.push(piece));
        socket.write('hello\x04');
        await once(socket, 'close');
        expect(Buffer.concat(heard).toString()).toBe('hello');
      }
      expect(await ended).toEqual([0, null]);
      expect(existsSync(path)).toBe(false);
    },
    SWEEP_MS,
  );

  test('can be configured by a file', () => {
    const { stdout, status } = tsvisor(['run', '--config', config, '--append', 'pings=1']);
    expect(stdout).toMatch(/32 MiB\ntsvisor: sandbox: system calls that no machine needs end the process/);
    expect(status).toBe(0);
  });

  test('ends with its guest’s verdict, a crash’s code, and the sentences of wrong input', {
    timeout: SWEEP_MS,
  }, () => {
    const run = (...args: string[]) => tsvisor(['run', '--sandbox', 'strict', ...args]);
    expect(run('--append', 'no-such-word').status).toBe(6);
    const crash = run('--append', 'crash=triple');
    expect([crash.status, crash.signal]).toEqual([tsvisor(['run', '--append', 'crash=triple']).status, null]);
    const missing = run('--kernel', '/no/such/kernel');
    expect([missing.status, missing.stderr]).toEqual([
      64,
      'tsvisor: --kernel: there is no file /no/such/kernel\n',
    ]);
  });
});

describe('what a sandbox excludes is found before the start', () => {
  test.each([
    [['--net', 'passt'], /^tsvisor: --net passt: net=passt starts a program, .*passt-socket:PATH\n$/],
    [['--device', '0000:01:00.0,bind=vfio-pci'], /bind= writes to sysfs/],
    [['--device', 'mdev:mtty-2'], /mdev:TYPE writes to sysfs/],
  ] as const)('%s', (args, message) => {
    const { stderr, status } = tsvisor(['run', '--sandbox', ...args]);
    expect(stderr).toMatch(message);
    expect(status).toBe(64);
  });

  test.skipIf(!hasLandlock)(`what it keeps from a machine is an error that says so${needsLandlock}`, () => {
    const plugin = attacker([`fs.readFileSync(${JSON.stringify(SECRET)});`]);
    const { stderr, status } = tsvisor(['run', '--sandbox', '--plugin', plugin]);
    expect(stderr).toMatch(/cannot be loaded: EACCES/);
    expect(status).toBe(64);
  });

  test.skipIf(!hasLandlock)(
    `a process that only pretends to be in one is refused, and not executed for ever${needsLandlock}`,
    () => {
      const { stderr, status } = tsvisor(['run', '--sandbox'], ['env', 'TSVISOR_SANDBOX=7 20']);
      expect(stderr).toMatch(/^tsvisor: enterSandbox on this process: EINVAL\n.*unset it\n$/);
      expect(status).toBe(69);
    },
  );
});

describe('in a program', () => {
  test('a machine with a sandbox does not start where the process has none', () => {
    expect(() => VirtualMachine.start({ sandbox: 'on' })).toThrow(/sandbox: this process has none/);
  });

  test('enterSandbox executes it again, and seal() shuts the main thread in, too', async () => {
    const program = fileURLToPath(new URL('./testing/sandboxed-program.mjs', import.meta.url));
    const child = spawn(process.execPath, [program, SECRET, ALLOWED], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    for await (const piece of child.stdout) text += String(piece);
    expect(JSON.parse(text)).toEqual({
      pid: child.pid,
      program: 'done',
      sealed: { secret: hasLandlock ? 'EACCES' : 'done', allowed: 'done', program: 'EPERM', port: 'EPERM' },
      outcome: 'verdict',
      status: 0,
    });
    expect(existsSync(SECRET)).toBe(true);
  });
});

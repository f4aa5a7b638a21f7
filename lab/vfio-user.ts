/** Devices served by `tsvisor serve` to Debian's QEMU 11, whose guest is the lab's L2. Needs no L1. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startFileServer } from './file-server.js';
import { imageFolder, prepare } from './images.js';
import { type L2Check, l2CommandLine, parseL2Results } from './l2.js';
import { wrongBytes } from './l2-picture.js';
import { projectFolder } from './paths.js';
import { runSteps, seconds } from './step.js';
import { programOf, rootOf, type Userland, userlandStep } from './userland.js';

/** sid is the first Debian suite whose QEMU has a vfio-user client. */
const qemu11: Userland = {
  name: 'qemu11',
  suites: ['sid'],
  packages: ['qemu-system-x86', 'busybox-static', 'bash', 'coreutils'],
};

/** Devices that are served together, and the expected results in the guest. */
export interface ServedCell {
  readonly name: string;
  /** In the form that `tsvisor serve` takes. */
  readonly devices: readonly string[];
  readonly checks: readonly L2Check[];
  readonly expected: readonly string[];
  /** Whether to compare the first device's picture while the guest holds. */
  readonly isPictured?: true;
}

/** The same addresses as for L1's NICs: the guest's gateway is this machine's loopback. */
const PASST = 'net=passt:address=10.0.2.15;netmask=24;gateway=10.0.2.2';

export const servedCells: readonly ServedCell[] = [
  {
    name: 'virtio-net, passt',
    devices: [`virtio-net,${PASST}`],
    checks: ['dhcp', 'fetch', 'interrupts'],
    expected: ['dhcp.eth0', 'fetch.eth0'],
  },
  // passt answers pings only if this machine lets unprivileged users send them (net.ipv4.ping_group_range).
  {
    name: 'virtio-net, responder',
    devices: ['virtio-net'],
    checks: ['dhcp', 'ping'],
    expected: ['dhcp.eth0', 'ping.eth0'],
  },
  { name: 'mtty', devices: ['mtty-2'], checks: ['tty'], expected: ['tty.ttyS1', 'tty.ttyS2'] },
  { name: 'vgpu', devices: ['vgpu-small'], checks: ['fb'], expected: ['fb.fb0'] },
  {
    name: 'vgpu, pixel for pixel',
    devices: ['vgpu-small'],
    checks: ['picture', 'hold'],
    expected: ['picture.fb0'],
    isPictured: true,
  },
  {
    name: 'virtio-net + mtty',
    devices: ['virtio-net', 'mtty-1'],
    checks: ['dhcp', 'ping', 'tty'],
    expected: ['dhcp.eth0', 'ping.eth0', 'tty.ttyS1'],
  },
];

const MEMORY_MIB = 256;
const READY_MS = 20_000;
const GUEST_MS = 120_000;

/** A `tsvisor serve` process. */
class Server implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  readonly #png: string;
  output = '';

  private constructor(device: string, path: string) {
    this.#png = `${path}.png`;
    const args = ['dist/vmm/cli.js', 'serve', device, '--socket', path, '--screenshot', this.#png];
    this.#child = spawn(process.execPath, args, { cwd: projectFolder, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#ended = once(this.#child, 'exit');
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (bytes) => {
        this.output += String(bytes);
      });
  }

  /** @throws Error with its output if it is not ready in time */
  static async start(device: string, path: string): Promise<Server> {
    const server = new Server(device, path);
    const deadline = performance.now() + READY_MS;
    while (!server.output.includes('serves it at')) {
      if (performance.now() > deadline || server.#child.exitCode !== null) {
        await server[Symbol.asyncDispose]();
        throw new Error(`tsvisor serve ${device} is not ready\n${server.output}`);
      }
      await sleep(20);
    }
    return server;
  }

  /** The current picture. @throws Error if there is none in time */
  async picture(): Promise<Buffer> {
    const said = () => this.output.split('picture saved in').length;
    const before = said();
    const deadline = performance.now() + READY_MS;
    for (this.#child.kill('SIGUSR2'); said() === before; await sleep(20))
      if (performance.now() > deadline) throw new Error(`no picture\n${this.output}`);
    return readFileSync(this.#png);
  }

  /** Stops it with SIGTERM, and checks its exit status. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#ended;
  }
}

function qemuArguments(sockets: readonly string[], line: string): string[] {
  const root = rootOf(qemu11);
  const devices = sockets.flatMap((path) => [
    '-device',
    JSON.stringify({ driver: 'vfio-user-pci', socket: { path, type: 'unix' } }),
  ]);
  return [
    ...[
      '-L',
      join(root, 'usr/share/seabios'),
      '-L',
      join(root, 'usr/share/qemu'),
      '-L',
      join(root, 'usr/lib/ipxe/qemu'),
    ],
    ...['-accel', 'tcg', '-machine', 'q35,memory-backend=mem', '-m', `${MEMORY_MIB}`, '-cpu', 'max'],
    ...['-object', `memory-backend-memfd,id=mem,size=${MEMORY_MIB}M,share=on`],
    ...['-nodefaults', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
    ...['-kernel', join(imageFolder, 'vmlinuz'), '-initrd', join(imageFolder, 'l2.initrd'), '-append', line],
    ...devices,
  ];
}

export interface ServedResult {
  readonly isPassed: boolean;
  readonly ms: number;
  /** Output of the guest, QEMU and the servers. */
  readonly output: string;
}

/** Serves a cell's devices, boots QEMU's guest with them, and checks the results. */
export async function runServedCell(cell: ServedCell): Promise<ServedResult> {
  const start = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-user-'));
  const servers: Server[] = [];
  using files = await startFileServer();
  try {
    const sockets = cell.devices.map((_, i) => join(folder, `${i}.sock`));
    for (const [i, device] of cell.devices.entries())
      servers.push(await Server.start(device, sockets[i] as string));
    const line = l2CommandLine({ checks: cell.checks, url: files.url });
    let wrong = 0;
    const guest = await bootGuest(sockets, line, async (output) => {
      if (cell.isPictured) wrong = await wrongBytes(output, () => (servers[0] as Server).picture());
    });
    const results = parseL2Results(guest.output);
    const isPassed =
      guest.status === 0 &&
      wrong === 0 &&
      cell.expected.every((name) => results.get(name)) &&
      ![...results.values()].includes(false);
    const said = servers.map(({ output }, i) => `--- server ${i}\n${output}`).join('');
    const pixels = wrong === 0 ? '' : `${wrong} bytes of the picture are wrong\n`;
    return { isPassed, ms: performance.now() - start, output: `${guest.output}${said}${pixels}` };
  } finally {
    for (const server of servers) await server[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function bootGuest(
  sockets: readonly string[],
  line: string,
  whileItHolds: (output: string) => Promise<void>,
): Promise<{ status: number | null; output: string }> {
  const [program, ...loader] = programOf(qemu11, 'usr/bin/qemu-system-x86_64');
  const qemu = spawn(program as string, [...loader, ...qemuArguments(sockets, line)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const kill = () => void qemu.kill('SIGKILL');
  process.on('exit', kill);
  let output = '';
  let held: Promise<void> | undefined;
  // While a guest holds, its picture is compared; then it is stopped cleanly.
  const hold = () => {
    held = whileItHolds(output).finally(() => qemu.kill('SIGTERM'));
    held.catch(() => {}); // awaited below: a rejection must not end the process before
  };
  for (const stream of [qemu.stdout, qemu.stderr])
    stream.on('data', (bytes) => {
      output += String(bytes);
      if (held === undefined && output.includes('L2-WAITS')) hold();
    });
  const late = setTimeout(kill, GUEST_MS);
  const [status] = (await once(qemu, 'exit')) as [number | null];
  clearTimeout(late);
  process.off('exit', kill);
  await held;
  return { status, output };
}

/**
 * Runs cells, and prints a table.
 * @param names all if empty
 * @returns whether all passed
 */
export async function runServed(names: readonly string[]): Promise<boolean> {
  const unknown = names.filter((name) => !servedCells.some((cell) => cell.name === name));
  if (unknown.length > 0) {
    const known = servedCells.map(({ name }) => name).join('; ');
    throw new Error(`no cell '${unknown.join("', '")}'\n  hint: one of ${known}`);
  }
  await prepare();
  await runSteps([userlandStep(qemu11)]);
  const failures: string[] = [];
  const rows: Record<string, Record<string, string>> = {};
  for (const cell of servedCells.filter(({ name }) => names.length === 0 || names.includes(name))) {
    const start = performance.now();
    const { isPassed, output } = await runServedCell(cell);
    console.log(`${isPassed ? 'ok    ' : 'FAILED'} QEMU 11 by vfio-user, ${cell.name}: ${seconds(start)}`);
    rows[cell.name] = { 'QEMU 11': isPassed ? `ok ${seconds(start)}` : 'FAILED' };
    if (!isPassed) failures.push(`--- ${cell.name}\n${output.slice(-6000)}`);
  }
  console.table(rows);
  if (failures.length > 0) console.log(failures.join('\n'));
  return failures.length === 0;
}

/** Devices served by `tsvisor serve` to Debian's QEMU 11, whose guest is the lab's L2. Needs no L1. */
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PNG } from 'pngjs';
import { parseAddress } from '../vmm/device-address.js';
import { CHROMIUM } from '../vmm/display/testing/chromium.js';
import { DeviceServer, type DeviceServerOptions } from '../vmm/index.js';
import { useDesktop } from './desktop.js';
import { runDriverTests } from './driver-tests.js';
import { startFileServer } from './file-server.js';
import { imageFolder, prepare } from './images.js';
import { DRIVEN, type L2Check, l2CommandLine, parseL2Results } from './l2.js';
import { DESKTOP_EVENTS } from './l2-desktop.js';
import { expectedEvents, typeAll } from './l2-input.js';
import { wrongBytes } from './l2-picture.js';
import { compareScreens, follows } from './l2-screens.js';
import { slowdown } from './patience.js';
import { spawnBound } from './process.js';
import { clientOf, guestArguments, qemu11Command } from './qemu11.js';
import { Scratch } from './scratch.js';
import { ServeProcess } from './serve-process.js';
import { runSteps, seconds } from './step.js';
import { programOf, qemu11, userland, userlandStep } from './userland.js';

/** Devices that are served together, and the expected results in the guest. */
export interface ServedCell {
  readonly name: string;
  /** In the form that `tsvisor serve` takes; `@disk` is a file of the cell's. */
  readonly devices: readonly string[];
  readonly checks: readonly L2Check[];
  readonly expected: readonly string[];
  /** Additional kernel parameters. */
  readonly parameters?: readonly string[];
  /** Whether to compare the first device's picture while the guest holds. */
  readonly isPictured?: true;
  /**
   * What this process does with the devices, which one server of its own has then, while the guest waits. Returns how much is wrong; the guest is
   * ended after it.
   */
  readonly during?: (server: DeviceServer, output: () => string) => Promise<number>;
}

/** The same addresses as for L1's NICs: the guest's gateway is this machine's loopback. */
const PASST = 'net=passt:address=10.0.2.15;netmask=24;gateway=10.0.2.2';

const DESKTOP = 'desktop, by the page in Chromium';

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
  {
    name: 'virtio-blk',
    devices: ['virtio-blk,file=@disk'],
    checks: ['disk', 'interrupts'],
    expected: ['disk.vda'],
  },
  {
    name: 'virtio-input',
    devices: ['virtio-input', 'virtio-input,type=tablet', 'virtio-input,type=mouse'],
    checks: ['input'],
    expected: ['input.events'],
    parameters: [`lab.events=${expectedEvents.length}`],
    during: (server, output) => typeInto(server, output),
  },
  {
    name: 'virtio-gpu, console, pixel for pixel',
    devices: ['virtio-gpu'],
    checks: ['picture', 'hold'],
    expected: ['picture.fb0'],
    isPictured: true,
  },
  {
    name: 'virtio-gpu, two screens with cursors, pixel for pixel',
    devices: ['virtio-gpu,heads=2,width=800,height=600'],
    checks: ['screens'],
    expected: [],
    during: (server, output) => useScreens(server, output),
  },
  {
    name: DESKTOP,
    devices: ['virtio-gpu', 'virtio-input', 'virtio-input,type=tablet'],
    checks: ['picture', 'input'],
    expected: ['picture.fb0', 'input.events'],
    parameters: [`lab.events=${DESKTOP_EVENTS}`],
    during: (server, output) => useDesktop(server, output),
  },
  { name: 'vgpu', devices: ['vgpu-small'], checks: ['fb'], expected: ['fb.fb0'] },
  {
    name: 'vgpu, pixel for pixel',
    devices: ['vgpu-small'],
    checks: ['picture', 'hold'],
    expected: ['picture.fb0'],
    isPictured: true,
  },
  {
    name: 'testcard',
    devices: ['testcard'],
    checks: ['card'],
    expected: ['id', 'small', 'mapped', 'rom', 'doorbells', 'dma', 'outside', 'reset', 'failing', 'gone'].map(
      (what) => `card.${what}`,
    ),
    parameters: ['memmap=64K$0xf000000'],
  },
  {
    name: 'testcard, by its driver',
    devices: ['testcard,vectors=16'],
    checks: ['driven'],
    expected: DRIVEN,
  },
  {
    name: 'virtio-net + mtty',
    devices: ['virtio-net', 'mtty-1'],
    checks: ['dhcp', 'ping', 'tty'],
    expected: ['dhcp.eth0', 'ping.eth0', 'tty.ttyS1'],
  },
];

const DISK_BYTES = 8 << 20;
const READY_MS = 20_000;
const GUEST_MS = 120_000;

/** Compares both screens, gives one another size, and compares them again once the guest has set that mode. */
async function useScreens(server: DeviceServer, output: () => string): Promise<number> {
  const look = async (head: number) => {
    const { width, height, data } = PNG.sync.read(Buffer.from(await server.screenshot(undefined, head)));
    return { width, height, rgba: data };
  };
  const size = { width: 1280, height: 720 };
  const before = await compareScreens(output(), look);
  await server.resize(size, 1);
  if (!(await follows(output, 1, size))) return before + 1;
  return before + (await compareScreens(output(), look));
}

/** Types at three devices, in the order of {@link INPUT_DEVICES}; the check ends by itself, and is given time for that. */
async function typeInto(server: DeviceServer, output: () => string): Promise<number> {
  const wrong = await typeAll(output, (device, events) =>
    server.input(events, INPUT_DEVICES.indexOf(device)),
  );
  for (const end = performance.now() + READY_MS; performance.now() < end; await sleep(20))
    if (parseL2Results(output()).size > 0) break;
  return wrong;
}
const INPUT_DEVICES = ['keyboard', 'tablet', 'mouse'];

/** Serves devices in this process. @throws the error for which it cannot */
async function host(devices: readonly string[], sockets: readonly string[]): Promise<DeviceServer> {
  const [first, ...beside] = devices.map((text, i) => ({
    ...parseAddress(text, 'device'),
    path: sockets[i] as string,
  }));
  const server = DeviceServer.start({ ...(first as DeviceServerOptions), beside });
  await Promise.race([server.finished, server.inputs()]); // which it tells once clients can connect
  return server;
}

/** Serves one by `tsvisor serve`. */
function serve(device: string, path: string, env: NodeJS.ProcessEnv): Promise<ServeProcess> {
  const screenshot = /^(vgpu|virtio-gpu)/.test(device) ? ['--screenshot', pictureAt(path)] : [];
  return ServeProcess.start([device, '--socket', path, ...screenshot], env);
}
const pictureAt = (path: string): string => `${path}.png`;

/** PATH for tsvisor. On a machine without passt, the cache's passt serves, with its own loader and libraries. */
function pathWithPasst(folder: string): string {
  const path = process.env.PATH ?? '';
  if (path.split(delimiter).some((each) => existsSync(join(each, 'passt')))) return path;
  const programs = join(folder, 'bin');
  mkdirSync(programs);
  const command = programOf(userland, 'usr/bin/passt').map((word) => `'${word}'`);
  writeFileSync(join(programs, 'passt'), `#!/bin/sh\nexec ${command.join(' ')} "$@"\n`, { mode: 0o755 });
  return `${programs}${delimiter}${path}`;
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
  using scratch = Scratch.create();
  const { folder } = scratch;
  const env = { ...process.env, PATH: pathWithPasst(folder) };
  const servers: ServeProcess[] = [];
  let hosted: DeviceServer | undefined;
  const disk = join(folder, 'disk');
  writeFileSync(disk, Buffer.alloc(DISK_BYTES));
  using files = await startFileServer();
  try {
    const sockets = cell.devices.map((_, i) => join(folder, `${i}.sock`));
    if (cell.during !== undefined) hosted = await host(cell.devices, sockets);
    else
      for (const [i, device] of cell.devices.entries())
        servers.push(await serve(device.replace('@disk', disk), sockets[i] as string, env));
    const line = l2CommandLine({
      checks: cell.checks,
      url: files.url,
      parameters: cell.parameters ?? [],
    });
    let wrong = 0;
    const guest = await bootGuest(sockets, line, async (output) => {
      const [first] = servers;
      if (cell.isPictured && first !== undefined)
        wrong = await wrongBytes(output(), () => first.picture(pictureAt(sockets[0] as string)));
      if (hosted !== undefined) wrong += (await cell.during?.(hosted, output)) ?? 0;
    });
    const results = parseL2Results(guest.output);
    const isPassed =
      guest.status === 0 &&
      wrong === 0 &&
      cell.expected.every((name) => results.get(name)) &&
      ![...results.values()].includes(false);
    const said = servers.map(({ output }, i) => `--- server ${i}\n${output}`).join('');
    const pixels = wrong === 0 ? '' : `${wrong} bytes of the picture, or events, are wrong\n`;
    return { isPassed, ms: performance.now() - start, output: `${guest.output}${said}${pixels}` };
  } finally {
    for (const server of [...servers, hosted]) await server?.[Symbol.asyncDispose]();
  }
}

async function bootGuest(
  sockets: readonly string[],
  line: string,
  whileItHolds: (output: () => string) => Promise<void>,
): Promise<{ status: number | null; output: string }> {
  const argv = [
    ...qemu11Command(),
    ...guestArguments(join(imageFolder, 'l2.initrd'), line),
    ...['-display', 'none', ...sockets.flatMap(clientOf)],
  ];
  const qemu = spawnBound(argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = () => void qemu.kill('SIGKILL');
  let output = '';
  let held: Promise<void> | undefined;
  // While a guest holds, its picture is compared; then it is stopped cleanly.
  const hold = () => {
    held = whileItHolds(() => output).finally(() => qemu.kill('SIGTERM'));
    held.catch(() => {}); // awaited below: a rejection must not end the process before
  };
  for (const stream of [qemu.stdout, qemu.stderr])
    stream?.on('data', (bytes) => {
      output += String(bytes);
      if (held === undefined && output.includes('L2-WAITS')) hold();
    });
  const late = setTimeout(kill, GUEST_MS * slowdown());
  const [status] = (await once(qemu, 'exit')) as [number | null];
  clearTimeout(late);
  await held;
  return { status, output };
}

/** The tests of drivers, which boot guests of their own by the kit of tsvisor/testing. */
const DRIVER_TESTS = 'driver tests';

const rowNames: readonly string[] = [...servedCells.map(({ name }) => name), DRIVER_TESTS];

/** Runs what a row of the table stands for. */
function runRow(name: string): Promise<Pick<ServedResult, 'isPassed' | 'output'>> {
  const cell = servedCells.find((each) => each.name === name);
  if (cell !== undefined) return runServedCell(cell);
  return runDriverTests(qemu11Command());
}

/** Runs a row until it passes, at most `tries` times; returns what failed. */
async function tryRow(name: string, tries: number): Promise<{ word: string; failures: string[] }> {
  const failures: string[] = [];
  for (let attempt = 1; ; attempt++) {
    const start = performance.now();
    let result: Pick<ServedResult, 'isPassed' | 'output'>;
    try {
      result = await runRow(name);
    } catch (error) {
      result = { isPassed: false, output: (error as Error).message };
    }
    const { isPassed, output } = result;
    console.log(`${isPassed ? 'ok    ' : 'FAILED'} QEMU 11 by vfio-user, ${name}: ${seconds(start)}`);
    if (isPassed) return { word: `ok ${seconds(start)}${attempt > 1 ? `, try ${attempt}` : ''}`, failures };
    failures.push(`--- ${name}\n${output.slice(-6000)}`);
    if (attempt >= tries) return { word: 'FAILED', failures };
  }
}

/**
 * Runs cells, and prints a table, whatever happens to one of them.
 * @param names all if empty
 * @param tries for each cell that fails
 * @returns whether all passed
 */
export async function runServed(names: readonly string[], tries = 1): Promise<boolean> {
  const unknown = names.filter((name) => !rowNames.includes(name));
  if (unknown.length > 0)
    throw new Error(`no cell '${unknown.join("', '")}'\n  hint: one of ${rowNames.join('; ')}`);
  await prepare();
  await runSteps([userlandStep(qemu11)]);
  const failures: string[] = [];
  const rows: Record<string, Record<string, string>> = {};
  const isLeftOut = (name: string): boolean => {
    if (name !== DESKTOP || names.includes(name) || existsSync(CHROMIUM)) return false;
    console.log(`${name}: left out, as there is no ${CHROMIUM}`);
    return true;
  };
  const wanted = rowNames.filter((each) => names.length === 0 || names.includes(each));
  for (const name of wanted.filter((each) => !isLeftOut(each))) {
    const result = await tryRow(name, tries);
    rows[name] = { 'QEMU 11': result.word };
    failures.push(...result.failures);
  }
  console.table(rows);
  if (failures.length > 0) console.log(failures.join('\n'));
  return Object.values(rows).every((row) => !Object.values(row).includes('FAILED'));
}

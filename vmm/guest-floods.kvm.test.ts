import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elfOf } from './testing/elf.js';
import { CLI } from './testing/machines.js';
import { VirtualMachine } from './virtual-machine.js';

const OUT_DX_AL = 0xee;
const portInDx = (port: number) => [0x66, 0xba, port & 0xff, port >> 8];
const valueInAl = (value: number) => [0xb0, value];
/** jmp to itself and `bytes` back. */
const loop = (bytes: number) => [0xeb, 0x100 - bytes - 2];
const forever = (port: number, value: number) => [
  ...portInDx(port),
  ...valueInAl(value),
  OUT_DX_AL,
  ...loop(1),
];

/** Guests that write one byte to one port for ever. */
const FLOODS = {
  phases: forever(0x80, 0x42),
  'lines on COM1': forever(0x3f8, 0x0a),
  'a line on COM1 that never ends': forever(0x3f8, 0x61),
} as const;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-floods-'));
  for (const [name, code] of Object.entries(FLOODS)) writeFileSync(join(folder, name), elfOf(code));
});
afterAll(() => rmSync(folder, { recursive: true }));

const run = (name: string, args: readonly string[] = []): ChildProcess =>
  spawn(process.execPath, [CLI, 'run', '--device', 'none', '--guest', join(folder, name), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });

const residentKib = ({ pid }: ChildProcess): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);

/** Nobody reads the process's output. Returns how long it took to end, and how it ended. */
async function stopUnread(child: ChildProcess): Promise<{ code: number | null; ms: number }> {
  const start = performance.now();
  child.kill('SIGTERM');
  const [code] = (await once(child, 'exit')) as [number | null];
  return { code, ms: performance.now() - start };
}

const FLOOD_MS = 2500;
/** A second for a reader that may come, and half a second to end, on a machine that others use as well. */
const END_MS = 20_000;
const GROWTH_KIB = 64 << 10;

describe.each([
  ['phases', []],
  ['lines on COM1', []],
  ['a line on COM1 that never ends', []],
  ['lines on COM1', ['--quiet']],
  ['lines on COM1', ['--trace', 'exit']],
  ['phases', ['--trace', 'unclaimed', '--trace', 'exit', '--quiet']],
] as const)('a guest floods the host with %s, %j, and nobody reads', (name, args) => {
  test('SIGTERM ends the process, and its memory does not grow', async () => {
    const child = run(name, args);
    try {
      await delay(FLOOD_MS);
      const warm = residentKib(child);
      await delay(FLOOD_MS);
      expect(residentKib(child) - warm).toBeLessThan(GROWTH_KIB);
      const { code, ms } = await stopUnread(child);
      expect(code).toBe(143);
      expect(ms).toBeLessThan(END_MS);
    } finally {
      child.kill('SIGKILL');
    }
  });
});

test('the report has the first 256 progress codes, and says how many more there were', async () => {
  let phases = 0;
  await using vm = VirtualMachine.start(
    { guest: join(folder, 'phases'), devices: [] },
    {
      phase() {
        if (++phases === 256) setTimeout(() => vm.stop(), 200);
      },
    },
  );
  const report = await vm.finished;
  expect(report.phases).toHaveLength(256);
  expect(phases).toBe(256);
  expect(report.phases.length + (report.dropped.phases ?? 0)).toBe(report.accesses['POST code']);
  expect(report.dropped.phases).toBeGreaterThan(0);
});

test('while serial output is unread, 256 KiB are sent at most, and what the UART then loses is counted', async () => {
  let sent = 0;
  await using vm = VirtualMachine.start(
    { guest: join(folder, 'lines on COM1'), devices: [] },
    {
      serial(bytes) {
        if (sent === 0) setTimeout(() => vm.stop(), 1500);
        sent += bytes.length;
        return new Promise(() => {});
      },
    },
  );
  const report = await vm.finished;
  expect(sent).toBeLessThanOrEqual(256 << 10);
  const inUart = (report.accesses.COM1 ?? 0) - sent - (report.dropped.serialBytes ?? 0);
  expect(report.dropped.serialBytes).toBeGreaterThan(0);
  expect([0, 1]).toContain(inUart); // without FIFOs it holds one byte
});

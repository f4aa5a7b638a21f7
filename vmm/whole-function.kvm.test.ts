/** A server whose device decodes its BARs and masks its vectors by itself, as QEMU's does, in the built-in guest. */
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, expect, test } from 'vitest';
import { Connection } from '../vfio/user/client/connection.js';
import { Writer } from '../vfio/user/message.js';
import { VFIO_USER_REGION_READ as READ, VFIO_USER_REGION_WRITE as WRITE } from '../vfio/user/protocol.js';
import { runMachine } from './testing/machines.js';
import { killAll, type Serving, serve } from './testing/serving.js';
import { VirtualMachine } from './virtual-machine.js';

const PLUGIN = fileURLToPath(new URL('../dist/vmm/testing/whole-function-plugin.js', import.meta.url));
const TIMEOUT_MS = 20_000;
const CONFIG = 7;

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-whole-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const running: ChildProcess[] = [];
afterEach(() => killAll(running));
let last = 0;

const serveWhole = (): Promise<Serving> =>
  serve('whole-net', { path: join(folder, `${last++}.sock`), args: ['--plugin', PLUGIN] }, running);

test('its NIC: 10 of 10 replies, which come by interrupt; and as many in the next guest', async () => {
  const { path } = await serveWhole();
  for (let round = 0; round < 2; round++) {
    const { report, serial, steps } = await runMachine({ devices: [{ address: `vfio-user:${path}` }] });
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
    const [, rx, tx] = /10\/10 replies, (\d+) rx interrupts, (\d+) tx/.exec(serial) ?? [];
    expect([Number(rx) > 0, Number(tx) > 0]).toEqual([true, true]);
    // It has neither doorbells nor memory: each access is a message, which a BAR without an address refuses.
    expect(steps.join('\n')).toMatch(/BAR4 16 KiB 64-bit prefetchable: 16 KiB trapped/);
    expect(steps.join('\n')).not.toMatch(/EINVAL/);
  }
});

test('after a reset of the machine, which leaves it without addresses, its NIC works again', async () => {
  const { path } = await serveWhole();
  let serial = '';
  let seen: () => void = () => {};
  const pinged = new Promise<void>((resolve) => {
    seen = resolve;
  });
  await using vm = VirtualMachine.start(
    { devices: [{ address: `vfio-user:${path}` }], cmdline: 'pings=300' },
    {
      serial: (bytes) => {
        serial += Buffer.from(bytes).toString('latin1');
        if (serial.includes('ping  3')) seen();
      },
    },
  );
  await Promise.race([pinged, vm.finished]);
  const before = serial.length;
  await vm.reset();
  const { outcome } = await vm.finished;
  expect(outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(serial.slice(before)).toMatch(/DHCP: .*300\/300 replies/s);
});

test('it refuses a client that keeps the addresses to itself', async () => {
  const { path } = await serveWhole();
  using connection = Connection.open(path, TIMEOUT_MS, false);
  const place = (region: number, at: number, count: number) => new Writer(16).u64(at).u32(region).u32(count);
  const read = () => connection.ask(READ, place(4, 0, 4).bytes);
  const write = (at: number, ...bytes: number[]) =>
    connection.ask(
      WRITE,
      new Writer(16 + bytes.length).u64(at).u32(CONFIG).u32(bytes.length).data(Uint8Array.from(bytes)).bytes,
    );
  expect(read).toThrowError(/EINVAL/);
  write(0x04, 2, 0);
  expect(read).toThrowError(/EINVAL/);
  write(0x20, 0, 0, 0, 0xe0);
  expect(read().payload).toHaveLength(20);
  write(0x04, 0, 0);
  expect(read).toThrowError(/EINVAL/);
});

/** A running machine with one port after the other swapped for another implementation, by injection. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { elfOf } from './testing/elf.js';
import { type FinishedRun, NIC, runMachine } from './testing/machines.js';

const PLUGIN = fileURLToPath(new URL('../dist/vmm/testing/swapped-port-plugin.js', import.meta.url));

afterEach(() => {
  delete process.env.TSVISOR_SWAPPED_PORT;
});

async function runWith(port: string, config: Parameters<typeof runMachine>[0] = {}): Promise<FinishedRun> {
  process.env.TSVISOR_SWAPPED_PORT = port;
  return runMachine({ devices: [NIC], plugins: [PLUGIN], ...config });
}

/** Exits of a kind while the guest exchanges packets. */
function exitsOfTraffic({ report }: FinishedRun, kind: string): number {
  const [begin, end] = [0x50, 0x60].map((code) => report.phases.find((phase) => phase.code === code));
  return (end?.exits[kind] ?? 0) - (begin?.exits[kind] ?? 0);
}

function expectPings({ serial, report }: FinishedRun): void {
  expect(serial).toMatch(/10\/10 replies/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
}

test('memory: DMA maps follow the swapped one', async () => {
  const run = await runWith('memory');
  expectPings(run);
  expect(run.steps.filter((step) => step.startsWith('DMA map'))).toContain(
    'DMA map 0x0-0x3ffffff (swapped ram)',
  );
});

test('memory slots: RAM and BARs are made by the swapped ones', async () => {
  const run = await runWith('slots');
  expectPings(run);
  expect(run.steps.filter((step) => step.startsWith('swapped slot'))).toContain('swapped slot 0');
});

test('guest mapper: what it refuses to map is trapped, and the guest works the same', async () => {
  process.env.TSVISOR_SWAPPED_PORT = 'mapper';
  const display = { address: 'vgpu-small' };
  const mapped = await runMachine({ devices: [display, NIC], cmdline: 'xres=64 yres=64' });
  const trapped = await runWith('mapper', { devices: [display, NIC], cmdline: 'xres=64 yres=64' });
  expectPings(mapped);
  expectPings(trapped);
  const drawn = ({ report }: FinishedRun) =>
    Object.entries(report.accesses).find(([name]) => /vgpu-small BAR0/.test(name))?.[1] ?? 0;
  expect(drawn(mapped)).toBe(0);
  expect(drawn(trapped)).toBeGreaterThan(64 * 64);
});

test('interrupts: messages that the machine thread delivers reach the guest', async () => {
  const run = await runWith('interrupts');
  expectPings(run);
  expect(run.serial).toMatch(/1\d rx interrupts, 1\d tx interrupts/);
  expect(exitsOfTraffic(run, 'interrupted')).toBeGreaterThan(0);
});

test('doorbells: without them each ring is an exit that the device answers', async () => {
  const run = await runWith('doorbells');
  expectPings(run);
  expect(exitsOfTraffic(run, 'mmio')).toBeGreaterThanOrEqual(10);
});

test('provider: one of this process is associated with the VM by its own file operations', async () => {
  const run = await runWith('provider', { devices: [{ ...NIC, address: 'other-nic' }] });
  expectPings(run);
  expect(run.steps.join('\n')).toMatch(/group \d+ is associated with the VM \(KVM_DEV_VFIO_FILE_ADD\)/);
  expect(run.report.devices[0]?.counters.openedInVm).toBe(1);
});

test('provider: with its own alone in the container, the defaults are not there', async () => {
  await expect(runWith('provider')).rejects.toThrowError(
    /there is no device 'virtio-net'; there are:\n +other-nic$/,
  );
});

test('association: files go to the swapped one, and leave it', async () => {
  const run = await runWith('association');
  expectPings(run);
  const steps = run.steps.filter((step) => step.startsWith('swapped association'));
  expect(steps).toEqual([expect.stringMatching(/has 1: group \d+ \(core\)$/), 'swapped association has 0']);
});

test('clock: the guest reads the year of the swapped one from its RTC', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-ports-'));
  try {
    const guest = join(folder, 'guest.elf');
    // mov al, 9; out 0x70, al; in al, 0x71; out 0xf4, al; cli; hlt
    writeFileSync(guest, elfOf([0xb0, 9, 0xe6, 0x70, 0xe4, 0x71, 0xe6, 0xf4, 0xfa, 0xf4]));
    const { report } = await runWith('clock', { devices: [], guest });
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0x77 });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a plug-in whose configure throws ends the run with its reason', async () => {
  await expect(runWith('nothing')).rejects.toThrowError("there is no port 'nothing' to swap");
});

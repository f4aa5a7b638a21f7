/** What happens to a running guest when the host, the hardware or its own process affects its device. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type L2Check, parseL2Results } from './l2.js';
import { exitsByDevice, type RunningGuest, startGuest as start } from './running-guest.js';

const { LAB_E1000E: NIC = '', LAB_E1000E_PORT: PORT_NIC = '' } = process.env;

const running: RunningGuest[] = [];
afterEach(async () => {
  for (const { child, ended } of running.splice(0)) {
    child.kill('SIGKILL');
    await ended;
  }
});

/** Boots L2 with a device attached by group. */
function startGuest(device: string, checks: readonly L2Check[], bytes?: number, url?: string): RunningGuest {
  const fetched = url === undefined ? {} : { url, fetchBytes: bytes ?? 0 };
  const guest = start(['--device', device], { checks, ...fetched });
  running.push(guest);
  return guest;
}

/** Checks that a guest can use the NIC. */
async function expectUsable(device: string): Promise<void> {
  const guest = startGuest(device, ['dhcp', 'ping']);
  expect(await guest.ended).toEqual([0, null]);
  expect(Object.fromEntries(parseL2Results(guest.output()))).toEqual({
    'dhcp.eth0': true,
    'ping.eth0': true,
  });
}

const driverOf = (bdf: string): string | undefined => {
  const link = `/sys/bus/pci/devices/${bdf}/driver`;
  return existsSync(link) ? basename(readlinkSync(link)) : undefined;
};

describe.skipIf(NIC === '' || PORT_NIC === '')('a device of a running guest', () => {
  beforeAll(() => execFileSync('vfio-load'));
  beforeEach(() => {
    for (const nic of [NIC, PORT_NIC]) if (driverOf(nic) !== 'vfio-pci') execFileSync('vfio-bind', [nic]);
  });
  afterAll(() => execFileSync('vfio-unbind', [NIC]));

  test('is released when the host unbinds it: the guest ejects it and keeps running', async () => {
    const guest = startGuest(NIC, ['dhcp', 'unplug']);
    await guest.says('L2-WAITS');
    // Returns once the device is no longer in use.
    const unbind = spawn('sh', ['-c', `echo ${NIC} > /sys/bus/pci/drivers/vfio-pci/unbind`]);
    const [status] = await once(unbind, 'exit');
    expect(status).toBe(0);
    expect(await guest.ended).toEqual([0, null]);
    expect(guest.output()).toMatch(/the host wants the device back/);
    expect(parseL2Results(guest.output()).get('unplug.nic')).toBe(true);
    execFileSync('vfio-bind', [NIC]);
    await expectUsable(NIC);
  });

  test('may have an uncorrectable error: it is reported, and the guest keeps running', async () => {
    const guest = startGuest(PORT_NIC, ['dhcp', 'hold']);
    await guest.says('L2-WAITS');
    execFileSync('aer', [PORT_NIC, '8000']);
    await guest.says('the device had an uncorrectable error');
    guest.child.kill('SIGTERM');
    expect(await guest.ended).toEqual([143, null]);
  });

  test('is usable by the next guest after the first one crashed', async () => {
    const guest = startGuest(NIC, ['dhcp', 'crash']);
    expect(await guest.ended).toEqual([0, null]);
    expect(guest.output()).toMatch(/the guest requested a reset/);
    await expectUsable(NIC);
  });

  test('is usable by the next guest, and by its own driver, after tsvisor was killed', async () => {
    const guest = startGuest(NIC, ['dhcp', 'hold']);
    await guest.says('L2-WAITS');
    guest.child.kill('SIGKILL');
    await guest.ended;
    await expectUsable(NIC);
    execFileSync('vfio-unbind', [NIC]);
    execFileSync('modprobe', ['e1000e']);
    expect(driverOf(NIC)).toBe('e1000e');
    execFileSync('modprobe', ['-r', 'e1000e']);
    execFileSync('vfio-bind', [NIC]);
  });

  test('transfers ten more megabytes without an additional exit', async () => {
    const exitsOf = async (bytes: number): Promise<Record<string, number>> => {
      const guest = startGuest(NIC, ['dhcp', 'fetch'], bytes, process.env.LAB_URL);
      expect(await guest.ended).toEqual([0, null]);
      expect(parseL2Results(guest.output()).get('fetch.eth0')).toBe(true);
      return exitsByDevice(guest.output());
    };
    const [few, many] = [await exitsOf(1 << 20), await exitsOf(11 << 20)];
    console.log('exits with 1 MiB', few, 'with 11 MiB', many);
    // Config space and trapped BARs: the NIC's own exits. The console prints times, and the timer ticks.
    const ofTheNic = (exits: Record<string, number>) =>
      Object.entries(exits).filter(([name]) => name.includes(NIC));
    expect(ofTheNic(many)).toEqual(ofTheNic(few));
  });

  // Last: the device does not come back.
  test('may be unplugged: the guest loses it and keeps running', async () => {
    const guest = startGuest(PORT_NIC, ['dhcp', 'unplug']);
    await guest.says('L2-WAITS');
    execFileSync('hmp', ['device_del', 'e1000e-port']);
    expect(await guest.ended).toEqual([0, null]);
    expect(parseL2Results(guest.output()).get('unplug.nic')).toBe(true);
    expect(existsSync(`/sys/bus/pci/devices/${PORT_NIC}`)).toBe(false);
  });
});

/** A real NIC through what a guest's life brings: restarts, another kernel by kexec, its ROM, and the end of tsvisor by kill -9. */
import { execFileSync, execSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { tsvisorRun } from './command-line.js';
import { parseL2Results } from './l2.js';
import {
  exitsByDevice,
  type RunningGuest,
  startGuest,
  startRestartingGuest,
  startRun,
} from './running-guest.js';

const { LAB_E1000E: NIC = '', LAB_URL: url = '' } = process.env;
/** The built-in guest's verdict when the NIC is not a virtio-net device: it ran, so the device was attached. */
const RAN = 2;

const running: RunningGuest[] = [];
const own = (guest: RunningGuest): RunningGuest => {
  running.push(guest);
  return guest;
};
afterEach(async () => {
  for (const { child, ended } of running.splice(0)) {
    child.kill('SIGKILL');
    await ended;
  }
});

const both = test.each(['group', 'iommufd']);

describe.skipIf(NIC === '')('a NIC', () => {
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [NIC]);
  });
  afterAll(() => execFileSync('vfio-unbind', [NIC]));

  both('works after each of three restarts of its guest (%s)', { timeout: 300_000 }, async (how) => {
    const guest = own(
      startRestartingGuest(['--device', `${NIC},interface=${how}`], { checks: ['dhcp', 'ping', 'restart'] }),
    );
    await guest.says('L2-RESULT ping.eth0 ok', 3);
    guest.child.kill('SIGTERM');
    expect(await guest.ended).toEqual([143, null]);
    expect(Object.fromEntries(parseL2Results(guest.output()))).toEqual({
      'dhcp.eth0': true,
      'ping.eth0': true,
    });
  });

  both('works in a kernel that its guest boots by kexec (%s)', { timeout: 300_000 }, async (how) => {
    const checks = ['dhcp', 'kexec'] as const;
    const guest = own(
      startGuest(['--device', `${NIC},interface=${how}`], { checks, afterKexec: ['dhcp', 'ping'], url }),
    );
    expect(await guest.ended).toEqual([0, null]);
    expect(guest.output().match(/L2-USERSPACE/g)).toHaveLength(2);
    expect(Object.fromEntries(parseL2Results(guest.output()))).toEqual({
      'dhcp.eth0': true,
      'ping.eth0': true,
    });
  });

  test('shows the guest its ROM as the host reads it, in few exits', { timeout: 300_000 }, async () => {
    execFileSync('vfio-unbind', [NIC]); // while nobody uses it, vfio-pci keeps it in D3hot, without a ROM
    const file = `/sys/bus/pci/devices/${NIC}/rom`;
    const read = `echo 1 > ${file}; cat ${file} > /run/rom; echo 0 > ${file}; wc -c < /run/rom; md5sum < /run/rom`;
    const host = execSync(read, { encoding: 'utf8' });
    execFileSync('vfio-bind', [NIC]);
    const [bytes, md5] = host.split(/\s+/);
    expect(Number(bytes)).toBeGreaterThan(32 << 10);
    const guest = own(startGuest(['--device', NIC], { checks: ['rom'] }));
    expect(await guest.ended).toEqual([0, null]);
    expect(guest.output()).toMatch(new RegExp(`L2-ROM \\S+ ${bytes} bytes, ${md5}`));
    const exits = Object.entries(exitsByDevice(guest.output())).filter(([name]) => name.includes(NIC));
    console.log(`${bytes} bytes of ROM, exits:`, exits);
    // Read in pieces of 8 bytes at most: many times as many if each of them is an exit.
    expect(exits.reduce((sum, [, count]) => sum + count, 0)).toBeLessThan(3000);
  });

  /** What `tsvisor run` prints while it attaches the device, and then runs the guest. */
  const moments: [how: string, line: string][] = [
    ['group', 'is open and viable'],
    ['group', 'DMA map 0x0'],
    ['group', 'error notification wired'],
    ['group', 'guest |'],
    ['iommufd', 'is associated with the VM'],
    ['iommufd', 'is attached to IOAS'],
    ['iommufd', 'INTx on'],
    ['iommufd', 'guest |'],
  ];
  test('can be attached after tsvisor was killed at any moment', { timeout: 600_000 }, async () => {
    for (const [how, line] of moments) {
      const guest = own(startRun(['--device', `${NIC},interface=${how}`]));
      await guest.says(line);
      guest.child.kill('SIGKILL');
      expect(await guest.ended).toEqual([null, 'SIGKILL']);
    }
    for (const how of ['group', 'iommufd']) {
      const { status, error } = tsvisorRun(['--device', `${NIC},interface=${how}`]);
      expect([status, error]).toEqual([RAN, '']);
    }
  });
});

/** The example own-hypervisor with a real device: the whole program runs in L1, and Linux in its guest. */
import { execFileSync, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { inL1 } from './images.js';
import { l2CommandLine, parseL2Results } from './l2.js';

const { LAB_E1000E: NIC = '', LAB_URL = '' } = process.env;

beforeAll(() => {
  execFileSync('vfio-load');
  execFileSync('vfio-bind', [NIC]);
});
afterAll(() => execFileSync('vfio-unbind', [NIC]));

// Once more when an L2 stops before its first check: QEMU's software emulation loses a timer now and then (README.md).
const limits = { retry: 1, timeout: 240_000 };

test.each(['group', 'iommufd'])(
  'by %s, Linux drives an e1000e that the example assigns to it',
  limits,
  (how) => {
    const program = fileURLToPath(new URL('../dist/examples/own-hypervisor.js', import.meta.url));
    const checks = ['dhcp', 'ping', 'fetch', 'interrupts', 'restart'] as const;
    const append = l2CommandLine({ checks, url: LAB_URL, parameters: ['reboot=t'] });
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      [
        ...[program, '--device', NIC, '--interface', how],
        ...['--kernel', inL1.kernelElf, '--initrd', inL1.initrd, '--append', append],
      ],
      { encoding: 'utf8', timeout: 110_000 },
    );
    expect(stderr).toBe('');
    expect(stdout).toMatch(
      how === 'group' ? /attach: .*VFIO_GROUP_GET_DEVICE_FD/ : /attach: .*VFIO_DEVICE_BIND_IOMMUFD/,
    );
    expect(Object.fromEntries(parseL2Results(stdout)), stdout).toEqual({
      'dhcp.eth0': true,
      'ping.eth0': true,
      'fetch.eth0': true,
    });
    expect(stdout).toMatch(/PCI-MSIX?.*eth0-rx-0/);
    expect(status).toBe(0);
  },
);

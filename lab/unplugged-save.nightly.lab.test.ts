/** A Linux guest with a passed-through NIC, which has no migration, is saved: the NIC is unplugged for it, and plugged in after each restore. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FreshMachine } from '../vmm/kit/fresh-machine.js';
import { VirtualMachine } from '../vmm/virtual-machine.js';
import { GuestShell, PATIENT } from './guest-shell.js';
import { refusedDma } from './hotplug-guest.js';
import { inL1 } from './images.js';
import { l2CommandLine } from './l2.js';

// Below a port, whose bus is reset when a machine ends: QEMU's e1000e has no reset of its own, and would go on in the next guest.
const { LAB_E1000E_PORT: NIC = '', LAB_FILE = '', LAB_MD5 = '' } = process.env;
const RESTORES = Number(process.env.LAB_RESTORES ?? 20);

/** Waits for the NIC, gets an address and fetches the file: its MD5. */
const FETCH = [
  'n=0; until [ -e /sys/class/net/eth0 ] || [ $n = 300 ]; do sleep 0.1; n=$((n + 1)); done',
  'ip link set eth0 up; udhcpc -i eth0 -n -q -t 20 -T 1 -s /udhcpc >/dev/null 2>&1',
  `wget -q -O - ${LAB_FILE} | md5sum`,
].join('; ');

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-unplugged-'));
beforeAll(() => {
  execFileSync('vfio-load');
  execFileSync('vfio-bind', [NIC]);
}, 60_000);
afterAll(() => {
  rmSync(folder, { recursive: true });
  execFileSync('vfio-unbind', [NIC]);
});

describe.skipIf(NIC === '').each(['group', 'iommufd'] as const)('a guest with a NIC (%s)', (how) => {
  const saved = join(folder, how);

  test('is not saved as it is, and the error names the NIC; unplugged meanwhile, the guest has it again', async () => {
    await using machine = new FreshMachine((observer) =>
      VirtualMachine.start(
        {
          kernel: inL1.kernel,
          initrd: inL1.initrd,
          memory: '256M',
          devices: [{ address: NIC, interface: how }],
          cmdline: l2CommandLine({ checks: ['dhcp', 'shell'] }),
        },
        observer,
      ),
    );
    await machine.says('/ # ', PATIENT);
    const shell = new GuestShell(machine);
    expect(await shell.answer(`wget -q -O - ${LAB_FILE} | md5sum`)).toContain(LAB_MD5);
    await expect(machine.vm.snapshot(saved)).rejects.toThrowError(new RegExp(`${NIC}.*: ENOTSUP`));
    await machine.vm.snapshot(saved, { detachUnmigratable: true, timeoutMs: 60_000 });
    expect(await shell.answer(FETCH)).toContain(LAB_MD5);
    expect(refusedDma()).toEqual([]);
  }, 250_000);

  test(`is restored ${RESTORES} times, finds the NIC plugged, and fetches a file over it`, async () => {
    for (let round = 0; round < RESTORES; round++) {
      await using machine = new FreshMachine((observer) => VirtualMachine.restore(saved, {}, observer));
      expect(await new GuestShell(machine).answer(FETCH), `round ${round}`).toContain(LAB_MD5);
      expect(refusedDma()).toEqual([]);
    }
  }, 1_200_000);
});

/** Debian, as installed from its packages, boots from its disk with a NIC of the host, as docs/root-disk.md has it. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { atTerminal } from '../vmm/testing/terminal.js';
import { debianInL1, debianLogin } from './debian-disk.js';
import { startRun } from './running-guest.js';

const { LAB_E1000E: NIC = '', LAB_FILE: url = '', LAB_MD5: sum = '' } = process.env;
const folder = mkdtempSync(join(tmpdir(), 'root-disk-'));
afterAll(() => rmSync(folder, { recursive: true }));

const overlay = join(folder, 'vm1.qcow2');
const machine = [
  ...['--kernel', debianInL1.kernel, '--initrd', debianInL1.initrd, '--memory', '512M'],
  ...['--disk', `${debianInL1.disk},overlay=${overlay}`],
];
/** The guide's, and what software emulation needs: less to emulate, and no wait for entropy. */
const APPEND = 'console=ttyS0 root=/dev/vda1 ro mitigations=off random.trust_cpu=on';
/** The system takes 80 s to its login on this lab's idle machine. */
const LOGIN_MS = 300_000;
const PROMPT = /root@debian:~# /;

test('Debian boots to a login with a NIC of the host, fetches a file over it, and has it after a restart', {
  timeout: 480_000,
}, async () => {
  execFileSync('bash', ['-c', `vfio-load && vfio-bind ${NIC}`]);
  const command = ['dist/vmm/cli.js', 'run', ...machine, '--serial', 'stdio', '--device', NIC];
  using person = atTerminal([...command, '--append', APPEND]);
  const { screen } = person;
  await screen.says('debian login: ', LOGIN_MS);
  await screen.types(`${debianLogin.user}\r`);
  await screen.says('Password: ', 30_000);
  await screen.types(`${debianLogin.password}\r`);
  await screen.says(PROMPT, 60_000);
  /** What a command prints, with its own echo before it. */
  const run = async (line: string): Promise<string> => {
    await screen.types(`${line}\r`);
    return screen.says(PROMPT, 90_000);
  };

  await run('stty cols 500');
  expect(await run('findmnt -no SOURCE,FSTYPE /')).toMatch(/\/dev\/vda1 +ext4/);
  expect(await run('cat /sys/block/vda/queue/write_cache')).toContain('write back');
  const nic = 'basename $(readlink /sys/class/net/en*/device/driver)';
  expect(await run(nic)).toContain('e1000e\r');
  await run('/lib/systemd/systemd-networkd-wait-online --any --timeout 60');
  expect(await run(`wget -qO file ${url}; md5sum file`)).toContain(`${sum}  file`);
  // The guest's file system has gone through the overlay, which has more than the file now.
  await run('sync');
  expect(statSync(overlay).blocks * 512).toBeGreaterThan(4 << 20);
  await screen.types('systemctl poweroff\r');
  expect(await person.ended).toEqual([0, null]);

  // What it wrote is there at the next start; of that start, only the kernel and one program are needed.
  expect(existsSync(overlay)).toBe(true);
  const again = `${APPEND} quiet panic=-1 init=/usr/bin/md5sum -- /root/file`;
  const guest = startRun([...machine, '--device', 'none', '--no-reboot', '--append', again]);
  await guest.ended;
  expect(guest.output()).toContain(`${sum}  /root/file`);
});

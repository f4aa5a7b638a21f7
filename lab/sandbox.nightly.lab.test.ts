/** Machines with a real NIC in a sandbox: it keeps nothing from the guest that it needs, and code inside gets nowhere. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, realpathSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attempts, FAILED, KEPT_FROM, named, writeAttacker } from '../vmm/testing/attacker.js';
import { failingRules, tsvisorRun } from './command-line.js';
import { inL1 } from './images.js';
import { l2CommandLine, parseL2Results } from './l2.js';

const { LAB_E1000E: NIC = '', LAB_E1000E_PORT: PORT_NIC = '', LAB_URL: url = '' } = process.env;
/** The built-in guest's verdict when the NIC is not a virtio-net device: it ran, so the device was attached. */
const RAN = 2;
const both = ['group', 'iommufd'] as const;

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sandbox-')));
const [secret, allowed] = [join(folder, 'secret'), join(folder, 'allowed')];
const device = `/sys/bus/pci/devices/${NIC}`;

/** What root could do to the device and the host without a sandbox. */
const OF_ROOT = [
  `await attempt('override the driver', () => fs.writeFileSync('${device}/driver_override', 'e1000e'));`,
  `await attempt('unbind the device', () => fs.writeFileSync('/sys/bus/pci/drivers/vfio-pci/unbind', '${PORT_NIC}'));`,
  `await attempt('write configuration space', () => void fs.openSync('${device}/config', 'r+'));`,
  `await attempt('open a BAR', () => void fs.openSync('${device}/resource0', 'r+'));`,
  `await attempt('open /dev/mem', () => void fs.openSync('/dev/mem', 'r'));`,
  `await attempt('load a module', () => call(313, 0, 0, 0));`,
];
const REFUSED_TO_ROOT = {
  'override the driver': 'EACCES',
  'unbind the device': 'EACCES',
  'write configuration space': 'EACCES',
  'open a BAR': 'EACCES',
  'open /dev/mem': 'EACCES',
  'load a module': 'EPERM',
};
const ATTEMPTS = attempts({ secret, allowed, folder });

describe.skipIf(NIC === '' || PORT_NIC === '')('in a sandbox', () => {
  beforeAll(() => {
    for (const path of [secret, allowed, '/etc/shadow']) writeFileSync(path, '');
    execFileSync('vfio-load');
    execFileSync('modprobe', ['tun']);
    execFileSync('vfio-bind', [NIC, PORT_NIC]);
    execFileSync('chmod', ['666', '/dev/kvm']);
  });
  afterAll(() => execFileSync('vfio-unbind', [NIC, PORT_NIC]));

  test.each(both)(
    'Linux uses its NIC to the end, while code inside, as root, is refused all that it tries (%s)',
    { timeout: 200_000 },
    (how) => {
      const { status, error, output } = tsvisorRun([
        ...['--sandbox', `on,read=${allowed}`, '--plugin', writeAttacker(folder, [...ATTEMPTS, ...OF_ROOT])],
        ...['--kernel', inL1.kernel, '--initrd', inL1.initrd, '--memory', '256M', '--no-reboot'],
        ...['--device', `${NIC},interface=${how}`],
        ...['--append', l2CommandLine({ checks: ['dhcp', 'ping', 'fetch'], url })],
      ]);
      expect(JSON.parse(error)).toEqual({ ...FAILED, ...KEPT_FROM, ...REFUSED_TO_ROOT });
      expect(Object.fromEntries(parseL2Results(output)), output).toEqual({
        'dhcp.eth0': true,
        'ping.eth0': true,
        'fetch.eth0': true,
      });
      expect(status).toBe(0);
    },
  );

  test('the same code as root without one is refused nothing of that: the attempts are real', () => {
    const what = [
      'read a file',
      'write beside itself',
      'spawn',
      'socket AF_INET',
      'override the driver',
      'open a BAR',
    ];
    const lines = named([...ATTEMPTS, ...OF_ROOT], ...what);
    const { error } = tsvisorRun(['--device', 'none', '--plugin', writeAttacker(folder, lines)]);
    execFileSync('vfio-bind', [NIC]); // its override is another now
    expect(JSON.parse(error)).toEqual(Object.fromEntries(what.map((name) => [name, 'done'])));
  });

  /** Runs lab/sandboxed-guest.mjs in a strict sandbox. @param attack what it tries at its end, with the NIC in use */
  function runProgram(how: (typeof both)[number], attack: string) {
    const config = {
      ...{ kernel: inL1.kernel, initrd: inL1.initrd, memory: '256M', sandbox: 'strict' },
      cmdline: l2CommandLine({ checks: ['hotplug'], url, fetchBytes: 1 << 20 }),
      devices: [{ address: NIC, interface: how }],
    };
    const program = fileURLToPath(new URL('./sandboxed-guest.mjs', import.meta.url));
    const argument = JSON.stringify({ config, later: { address: PORT_NIC, interface: how }, secret, attack });
    const ran = spawnSync(process.execPath, [program, argument], { encoding: 'utf8', timeout: 200_000 });
    return { ...ran, says: ran.stdout.match(/(?<=^PROGRAM ).*/gm) };
  }

  const LIFE = ['paused: paused', 'a tap: EACCES', 'a file: EACCES'];

  test('a strict one lets a second NIC come and go, and the guest be paused; other devices and files are refused', {
    timeout: 250_000,
  }, () => {
    const { says, stderr, status, signal, stdout } = runProgram('group', 'nothing');
    expect(stderr, stdout).toBe('');
    expect(says, stdout).toEqual([...LIFE, 'devices: 1', 'ends']);
    expect([status, signal]).toEqual([0, null]);
  });

  test('a strict one ends the program that starts another one while its guest uses two NICs, which are free then', {
    timeout: 250_000,
  }, () => {
    const { says, stderr, signal, stdout } = runProgram('iommufd', 'spawn');
    expect([says, stderr, signal], stdout).toEqual([LIFE, '', 'SIGSYS']);
    const nics = [NIC, PORT_NIC].map((nic) => `${nic},interface=iommufd`);
    expect(failingRules([...nics, '--memory', '64M'])).toEqual({});
    expect(tsvisorRun(nics.flatMap((nic) => ['--device', nic])).status).toBe(RAN);
  });

  test('a strict one ends the process whose plug-in calls execve', () => {
    const plugin = writeAttacker(folder, named(ATTEMPTS, 'execve'));
    const args = ['--sandbox', 'strict', '--plugin', plugin, '--device', NIC];
    const { status, error } = tsvisorRun(args, '"$@"; status=$?; exit $status');
    expect([status, error]).toEqual([159, expect.not.stringContaining('{')]);
  });

  test.each(both)('an ordinary user has a machine with the NIC in a strict one (%s)', (how) => {
    const NOBODY = 65534;
    const asNobody = `ulimit -l unlimited; exec setpriv --reuid ${NOBODY} --regid ${NOBODY} --clear-groups "$@"`;
    const { nodes } = failingRules([NIC, '--interface', how, '--memory', '64M'], asNobody);
    for (const command of nodes?.commands ?? []) execFileSync('sh', ['-c', command]);
    const { status, error } = tsvisorRun(
      ['--sandbox', 'strict', '--device', `${NIC},interface=${how}`],
      asNobody,
    );
    expect([status, error]).toEqual([RAN, '']);
  });
});

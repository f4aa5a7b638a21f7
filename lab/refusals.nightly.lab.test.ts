/**
 * What the user sees when a device or a kernel is not usable, on the real kernel: the failed call, its target, the
 * reason and the remedy, which is tried wherever possible.
 */
import { execFileSync, execSync, spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Kvm, Mapping } from '../kvm/index.js';
import { gpa } from '../sys/address.js';
import { type CheckRuleName, checkHostDevices, explainFailure } from '../vfio/host/check/index.js';
import { createAssignment, PolledEventThread } from '../vmm/assign/index.js';
import { failingRules, tsvisorRun } from './command-line.js';
import { inL1 } from './images.js';

const { LAB_E1000E: NIC = '', LAB_E1000E_PORT: PORT_NIC = '' } = process.env;
/** EX_USAGE and EX_UNAVAILABLE of sysexits.h. */
const [USAGE, UNAVAILABLE] = [64, 69];
/** The built-in guest's verdict when the NIC is not a virtio-net device: it ran, so the device was attached. */
const RAN = 2;

interface Refused {
  readonly status: number | null;
  readonly error: string;
}

/** Expects a refusal of the host, whose text matches all of these. */
function expectRefusal({ status, error }: Refused, ...says: readonly RegExp[]): void {
  for (const text of says) expect(error).toMatch(text);
  expect(error).toMatch(/^tsvisor: .+\n {2}hint: /);
  expect(status).toBe(UNAVAILABLE);
}

/** Expects that what the user gave is refused, with a text that matches all of these. */
function expectWrongInput({ status, error }: Refused, ...says: readonly RegExp[]): void {
  for (const text of says) expect(error).toMatch(text);
  expect(error).toMatch(/^tsvisor: ./);
  expect(status).toBe(USAGE);
}

/** The shell commands that a hint lists under `fix:`. */
function fixOf(error: string): string {
  const [, block = ''] = /fix:\n((?: {6}.*\n)+)/.exec(error) ?? [];
  expect(block).not.toBe('');
  return block;
}

/** The commands of a rule that has to fail, as `tsvisor check` prints them. */
function commandsOf(rules: ReturnType<typeof failingRules>, rule: CheckRuleName, text: RegExp): string {
  expect(rules[rule]?.text).toMatch(text);
  return (rules[rule]?.commands ?? []).join('\n');
}

/** Lines without their indentation. */
const lines = (block: string): string => block.trim().replaceAll(/\n +/g, '\n');

const kernelGuest = (kernel: string, ...more: string[]) =>
  tsvisorRun(['--device', 'none', '--kernel', kernel, ...more]);

describe.skipIf(NIC === '')('before VFIO is loaded', () => {
  const withoutVfioModules = `
    modules=/lib/modules/$(uname -r)/modules.dep
    grep -v vfio $modules > /run/modules.dep
    unshare --mount bash -c 'mount --bind /run/modules.dep '$modules' && exec "$@"' bash "$@"`;

  test('a missing driver is named with the command that loads it', () => {
    const result = tsvisorRun(['--device', `${NIC},bind=vfio-pci`]);
    expectRefusal(result, new RegExp(`^tsvisor: bind on ${NIC} to vfio-pci: ENODEV`), /modprobe vfio-pci/);
    const rules = failingRules([`${NIC},bind=vfio-pci`]);
    expect(commandsOf(rules, 'driver', /vfio-pci is not loaded/)).toBe('modprobe vfio-pci');
    expect(commandsOf(rules, 'interface', /VFIO is not loaded/)).toBe('modprobe vfio-pci');
  });

  test('a kernel without VFIO is reported with the option that it lacks', () => {
    const result = tsvisorRun(['--device', `${NIC},bind=vfio-pci`], withoutVfioModules);
    expectRefusal(result, /ENODEV\n.*this kernel was built without the driver \(CONFIG_VFIO_PCI\)/);
    const rules = failingRules([NIC], withoutVfioModules);
    expect(commandsOf(rules, 'driver', /built without the driver vfio-pci \(CONFIG_VFIO_PCI\)/)).toBe('');
  });

  test('a device in use by the host is refused with the commands that free it, and they work', () => {
    execFileSync('modprobe', ['e1000e']);
    const result = tsvisorRun(['--device', NIC]);
    expectRefusal(result, new RegExp(`^tsvisor: attach on ${NIC}: EBUSY`), /host uses it \(driver e1000e\)/);
    const commands = commandsOf(failingRules([NIC]), 'driver', /host uses it \(driver e1000e\)/);
    expect(commands).toBe(lines(fixOf(result.error)));
    execSync(commands, { shell: '/bin/bash' });
    expect(failingRules([NIC, '--memory', '64M'])).toEqual({});
    expect(tsvisorRun(['--device', NIC]).status).toBe(RAN);
  });
});

describe.skipIf(NIC === '')('with VFIO', () => {
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [NIC]);
  });

  test('a group that is not viable is refused with the blocking device and driver, and its commands fix it', () => {
    // SATA and SMBus are two functions of the south bridge, which share a group.
    const [sata, smbus] = ['0000:00:1f.2', '0000:00:1f.3'];
    execFileSync('modprobe', ['ahci']);
    expect(basename(readlinkSync(`/sys/bus/pci/devices/${sata}/driver`))).toBe('ahci');
    execFileSync('vfio-bind', [smbus]);
    const group = basename(readlinkSync(`/sys/bus/pci/devices/${smbus}/iommu_group`));
    const result = tsvisorRun(['--device', smbus]);
    expectRefusal(
      result,
      new RegExp(`VFIO_GROUP_GET_STATUS on /dev/vfio/${group}: EPERM`),
      new RegExp(`not viable while the host uses ${sata} \\(ahci\\)`),
    );
    const commands = commandsOf(failingRules([smbus]), 'viability', /0000:00:1f\.2 \(ahci\)/);
    expect(commands).toBe(lines(fixOf(result.error)));
    execSync(commands, { shell: '/bin/bash' });
    expect(failingRules([smbus])).toEqual({});
    expect(tsvisorRun(['--device', smbus]).status).toBe(RAN);
    execFileSync('vfio-unbind', [sata, smbus]);
  });

  test.each(['group', 'iommufd'])(
    'a limit on locked memory that is too low is reported with need, limit and remedy (%s)',
    (how) => {
      const args = ['--device', `${NIC},interface=${how}`, '--memory', '128M'];
      const limited = (kib: number, commands = '') =>
        `ulimit -l ${kib}; ${commands}\nexec setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock "$@"`;
      const result = tsvisorRun(args, limited(65_536));
      expectRefusal(
        result,
        /^tsvisor: (VFIO_IOMMU_MAP_DMA|IOMMU_IOAS_MAP) on .*IOVA 0x0-0x7ffffff: ENOMEM/,
        /128 MiB are needed .*RLIMIT_MEMLOCK is 64 MiB/,
        /--memlock=134217728/,
        /CAP_IPC_LOCK/,
      );
      expect(tsvisorRun(args, limited(131_072 + 1024)).status).toBe(RAN);
      const checked = [NIC, '--interface', how, '--memory', '128M'];
      const rules = failingRules(checked, limited(65_536));
      const commands = commandsOf(rules, 'memory-lock', /128 MiB are to be locked.*RLIMIT_MEMLOCK is 64 MiB/);
      expect(failingRules(checked, limited(65_536, commands))).toEqual({});
      expect(tsvisorRun(args, limited(65_536, commands)).status).toBe(RAN);
    },
  );

  test('a device that another process uses is refused with that process, and works once it ends', async () => {
    const group = basename(readlinkSync(`/sys/bus/pci/devices/${NIC}/iommu_group`));
    const other = spawn('bash', ['-c', `exec 7<>/dev/vfio/${group}; echo open; exec sleep 100`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => other.stdout.once('data', resolve));
    const result = tsvisorRun(['--device', NIC]);
    expectRefusal(
      result,
      new RegExp(`open on /dev/vfio/${group}: EBUSY`),
      new RegExp(`held by process ${other.pid} \\((bash|sleep)\\)`),
    );
    const commands = commandsOf(failingRules([NIC]), 'in-use', new RegExp(`process ${other.pid} `));
    const ended = new Promise((resolve) => other.once('exit', resolve));
    execSync(commands, { shell: '/bin/bash' });
    await ended;
    expect(failingRules([NIC])).toEqual({});
    expect(tsvisorRun(['--device', NIC]).status).toBe(RAN);
  });

  test.each(['group', 'iommufd'])(
    'a /dev without VFIO’s files, as in a container, is distinguished from a missing module (%s)',
    (how) => {
      const hidden = (commands = 'true') =>
        `unshare --mount bash -c 'mount -t tmpfs none /dev/vfio && ${commands} && exec "$@"' bash "$@"`;
      const result = tsvisorRun(['--device', `${NIC},interface=${how}`], hidden());
      expectRefusal(
        result,
        /^tsvisor: open on \/dev\/vfio\/.*: ENODEV/,
        /no such file: is \/dev a devtmpfs, and visible/,
      );
      const checked = [NIC, '--interface', how];
      const commands = commandsOf(failingRules(checked, hidden()), 'nodes', /there is no file \/dev\/vfio\//);
      expect(failingRules(checked, hidden(commands))).toEqual({});
    },
  );

  // The machine of tsvisor run has no RAM there; that of another hypervisor may.
  test.each(['group', 'iommufd'] as const)(
    'guest memory over the addresses of interrupts is refused with these, and mapped where check says (%s)',
    async (how) => {
      const bytes = 1n << 21n;
      const requestFor = (base: bigint) => ({
        devices: [{ address: NIC, interface: how }],
        memory: [{ base, bytes }],
      });
      const attach = async (base: bigint): Promise<void> => {
        await using events = await PolledEventThread.start();
        using kvm = Kvm.open();
        using vm = kvm.createVm();
        vm.createIrqchip();
        using ram = Mapping.anonymous(Number(bytes));
        const windows = [{ kind: 'mmio', base: 0xc000_0000n, bytes: 0x1000_0000n }] as const;
        using assignment = createAssignment({ vm, eventThread: events, windows });
        assignment.ports.memoryMap.addRam(gpa(base), ram);
        using _nic = assignment.attach({ address: NIC, interface: how });
      };
      const over = 0xfee0_0000n - bytes / 2n;
      const rule = checkHostDevices(requestFor(over)).results.find(({ verdict }) => verdict === 'fails');
      expect(rule?.rule).toBe('reserved-ranges');
      expect(rule?.text).toMatch(/covers reserved addresses: 0xfee00000-0xfeefffff \(msi\)$/);
      const error = await attach(over).catch((refused: unknown) => explainFailure(refused, requestFor(over)));
      expect(String(error)).toMatch(/(VFIO_IOMMU_MAP_DMA|IOMMU_IOAS_MAP) on .*: (EINVAL|EADDRINUSE)\n/);
      expect(String(error)).toContain(rule?.text);
      const [, end = ''] = /so that it ends below (0x[0-9a-f]+)/.exec(rule?.advice ?? '') ?? [];
      const below = BigInt(end) - bytes;
      expect(checkHostDevices(requestFor(below)).verdict).not.toBe('fails');
      await attach(below);
    },
  );

  test('a missing device and an invalid token are refused by name', () => {
    expectRefusal(tsvisorRun(['--device', '0000:00:19.0']), /find on PCI device 0000:00:19\.0: ENODEV/);
    commandsOf(failingRules(['0000:00:19.0']), 'device', /there is no PCI device 0000:00:19\.0/);
    expectWrongInput(tsvisorRun(['--device', `${NIC},vf-token=secret`]), /vf-token: 'secret' is not a UUID/);
  });

  test('a /dev/kvm that is another device is reported', () => {
    const other = (commands = 'true') =>
      `unshare --mount bash -c 'mount --bind /dev/null /dev/kvm && ${commands} && exec "$@"' bash "$@"`;
    expectRefusal(tsvisorRun([], other()), /KVM_GET_API_VERSION on \/dev\/kvm: ENOTTY/, /10, 232/);
    const commands = commandsOf(failingRules([NIC], other()), 'kvm', /\/dev\/kvm is another device/);
    expect(failingRules([NIC], other(commands))).toEqual({});
  });
});

describe.skipIf(PORT_NIC === '')('a device that sleeps', () => {
  const device = `/sys/bus/pci/devices/${PORT_NIC}`;
  const run = (commands: string): void => void execSync(commands, { shell: '/bin/bash' });
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [PORT_NIC]);
  });

  test('in D3hot, where vfio-pci keeps it, is woken by the run', () => {
    expect(readFileSync(`${device}/power_state`, 'utf8')).toBe('D3hot\n');
    expect(failingRules([PORT_NIC, '--memory', '64M'])).toEqual({});
    expect(tsvisorRun(['--device', PORT_NIC]).status).toBe(RAN);
  });

  // As a device in D3cold: its slot has no power.
  test('without power is refused as such; the commands bring it back once its slot has power again', () => {
    const port = basename(dirname(realpathSync(device)));
    /** PCI_EXP_SLTCTL_PCC turns the slot off. */
    const setPower = (isOn: boolean) =>
      execFileSync('setpci', ['-s', port, `CAP_EXP+18.w=${isOn ? '0' : '400'}:400`]);
    setPower(false);
    expect(failingRules([PORT_NIC])['power-state']?.text).toBe('it does not answer');
    const result = tsvisorRun(['--device', PORT_NIC]);
    expectRefusal(
      result,
      /^tsvisor: \w+ on .*: (EIO|EINVAL|ENODEV)\n/,
      new RegExp(`hint: ${PORT_NIC}: it is in D3cold, and does not come back: a device whose`),
      /only a power cycle of the host helps/,
    );
    const { 'power-state': rule } = failingRules([PORT_NIC]);
    expect(rule?.text).toBe('it is in D3cold, and does not come back'); // what the kernel makes of it
    setPower(true); // the power cycle
    run((rule?.commands ?? []).join('\n'));
    run(commandsOf(failingRules([PORT_NIC]), 'driver', /no driver has it|the host uses it/));
    expect(failingRules([PORT_NIC, '--memory', '64M'])).toEqual({});
    expect(tsvisorRun(['--device', PORT_NIC]).status).toBe(RAN);
    execFileSync('vfio-unbind', [PORT_NIC]);
  });
});

describe.skipIf(NIC === '')('a kernel or an initrd', () => {
  test('that is not a kernel, or is truncated, is reported by path', () => {
    execSync(`head -c 100000 /dev/urandom > /run/junk; head -c 3000000 ${inL1.kernel} > /run/cut`);
    expectWrongInput(kernelGuest('/run/junk'), /^tsvisor: \/run\/junk: is not a Linux kernel/, /bzImage/);
    expectWrongInput(
      kernelGuest('/run/cut'),
      /\/run\/cut: is cut short: 3000000 bytes, but its header speaks of \d+/,
    );
    expectWrongInput(kernelGuest('/run/nothing'), /there is no file \/run\/nothing/);
    expectWrongInput(kernelGuest('/run'), /\/run is a directory, and must be a regular file/);
  });

  test('that does not fit is refused with the memory it needs, and boots with that much', () => {
    const small = kernelGuest(inL1.kernel, '--memory', '32M');
    expectWrongInput(small, /guest has memory up to 32 MiB/, /give it \d+ MiB or more with --memory/);
    execSync('truncate -s 100M /run/initrd');
    const large = kernelGuest(inL1.kernel, '--memory', '96M', '--initrd', '/run/initrd');
    expectWrongInput(
      large,
      /^tsvisor: \/run\/initrd: has 104857600 bytes .*too many/,
      /give the guest \d+ MiB/,
    );
    const [, need] = /give the guest (\d+) MiB or more/.exec(large.error) ?? [];
    const args = ['--initrd', '/run/initrd', '--memory', `${need}M`, '--no-reboot', '--append', 'panic=-1'];
    const { error } = kernelGuest(inL1.kernel, ...args);
    expect(error).not.toMatch(/too many|give it/);
  });
});

test.skipIf(NIC === '')('after all of these, no VFIO module is in use', () => {
  for (const module of ['vfio_pci', 'vfio_iommu_type1']) expect(readdirSync('/sys/module')).toContain(module);
  execFileSync('vfio-unbind', [NIC]);
  execFileSync('modprobe', ['-r', 'vfio_iommu_type1']);
});

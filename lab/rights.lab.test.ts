/** Who may use a device: an ordinary user, and the holder of a VF token. */
import { execFileSync, execSync } from 'node:child_process';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { failingRules, tsvisorRun } from './command-line.js';

const { LAB_E1000E: NIC = '', LAB_IGB: PF = '' } = process.env;
const UNAVAILABLE = 69;
/** The built-in guest's verdict when the NIC is not a virtio-net device: it ran, so the device was attached. */
const RAN = 2;
const [TOKEN, OTHER] = ['14d63f20-8445-11ea-8900-1f9ce7d5650d', '24d63f20-8445-11ea-8900-1f9ce7d5650d'];

describe.skipIf(NIC === '')('an ordinary user', () => {
  const NOBODY = 65534;
  const asNobody = `ulimit -l unlimited; exec setpriv --reuid ${NOBODY} --regid ${NOBODY} --clear-groups "$@"`;
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [NIC]);
    execFileSync('chmod', ['666', '/dev/kvm']);
  });
  afterAll(() => execFileSync('vfio-unbind', [NIC]));

  test.each([
    ['group', () => [`/dev/vfio/${basename(readlinkSync(`/sys/bus/pci/devices/${NIC}/iommu_group`))}`]],
    [
      'iommufd',
      () => [`/dev/vfio/devices/${readdirSync(`/sys/bus/pci/devices/${NIC}/vfio-dev`)[0]}`, '/dev/iommu'],
    ],
  ])(
    'is refused with the command that gives access, and needs no more (%s)',
    { timeout: 300_000 },
    (how, nodes) => {
      const wanted = nodes();
      const given: string[] = [];
      for (;;) {
        const { status, error } = tsvisorRun(['--device', `${NIC},interface=${how}`], asNobody);
        if (status === RAN) break;
        expect(error).toMatch(/^tsvisor: open on \/dev\/\S+: EACCES\n {2}hint: /);
        expect(status).toBe(UNAVAILABLE);
        const [, paths = ''] = /sudo chown "\$USER" ((?:\/dev\/[\w/]+ ?)+)/.exec(error) ?? [];
        expect(paths, error).not.toBe('');
        const more = paths.trim().split(' ');
        expect(given).not.toEqual(expect.arrayContaining(more));
        given.push(...more);
        execFileSync('chown', [`${NOBODY}`, ...more]);
      }
      execFileSync('chown', ['0', ...given]);
      expect(given.sort()).toEqual([...wanted].sort());
    },
  );

  test.each(['group', 'iommufd'])('gets access by the commands that check prints (%s)', (how) => {
    const checked = [NIC, '--interface', how, '--memory', '64M'];
    const { nodes } = failingRules(checked, asNobody);
    expect(nodes?.text).toMatch(/this user may not open \/dev\/\S+ \(EACCES\)/);
    execSync((nodes?.commands ?? []).join('\n'), { shell: '/bin/bash' });
    expect(failingRules(checked, asNobody)).toEqual({});
    expect(tsvisorRun(['--device', `${NIC},interface=${how}`], asNobody).status).toBe(RAN);
    for (const command of nodes?.commands ?? [])
      execFileSync('chown', ['0', command.split(' ').at(-1) ?? '']);
  });

  test('may open no KVM until root runs the command that check prints', () => {
    execFileSync('chmod', ['600', '/dev/kvm']);
    const { status, error } = tsvisorRun([], asNobody);
    expect(error).toMatch(/^tsvisor: open on \/dev\/kvm: EACCES\n {2}hint: /);
    expect(status).toBe(UNAVAILABLE);
    const { kvm } = failingRules([NIC], asNobody);
    expect(kvm?.text).toBe('this user may not open /dev/kvm (EACCES)');
    execSync((kvm?.commands ?? []).join('\n'), { shell: '/bin/bash' });
    expect(failingRules([NIC], asNobody).kvm).toBeUndefined();
    expect(tsvisorRun(['--device', 'none'], asNobody).status).not.toBe(UNAVAILABLE);
    execSync('chown 0 /dev/kvm; chmod 666 /dev/kvm');
  });
});

describe.skipIf(PF === '')('VFs of a physical function in user space', () => {
  const device = `/sys/bus/pci/devices/${PF}`;
  let vfs: string[] = [];
  beforeAll(() => {
    execFileSync('vfio-load');
    writeFileSync('/sys/module/vfio_pci/parameters/enable_sriov', '1');
    execFileSync('vfio-bind', [PF]);
    writeFileSync(`${device}/sriov_numvfs`, '2');
    vfs = [0, 1].map((number) => basename(readlinkSync(`${device}/virtfn${number}`)));
    execFileSync('vfio-bind', vfs);
  });
  afterAll(() => {
    execSync(`echo 0 > ${device}/sriov_numvfs`);
    execFileSync('vfio-unbind', [PF]);
  });

  /** Arguments for both VFs. */
  const withOptions = (options: string): string[] => vfs.flatMap((vf) => ['--device', `${vf}${options}`]);

  test('need the token that the user of the physical function set', { timeout: 300_000 }, () => {
    const missing = tsvisorRun(withOptions(''));
    expect(missing.error).toMatch(/VFIO_GROUP_GET_DEVICE_FD on .*: EACCES\n.*vf-token=UUID/);
    expect(missing.status).toBe(UNAVAILABLE);
    const { 'vf-token': rule } = failingRules(vfs);
    expect(rule?.text).toBe(`it needs the token of its physical function ${PF}, which vfio-pci has`);
    expect(failingRules(vfs.map((vf) => `${vf},vf-token=${TOKEN}`))).toEqual({});
    expect(tsvisorRun(['--device', `${PF},vf-token=${TOKEN}`]).status).toBe(RAN);
    const wrong = tsvisorRun(withOptions(`,vf-token=${OTHER}`));
    expect(wrong.error).toMatch(/VFIO_GROUP_GET_DEVICE_FD on .*: EACCES\n.*token/);
    expect(wrong.status).toBe(UNAVAILABLE);
    expect(tsvisorRun(withOptions(`,vf-token=${TOKEN}`)).status).toBe(RAN);
  });

  test('cannot be opened by their cdev with a token on a kernel before 6.18, which is said', {
    timeout: 300_000,
  }, () => {
    const [major = 0, minor = 0] = execFileSync('uname', ['-r'], { encoding: 'utf8' }).split('.').map(Number);
    const { status, error } = tsvisorRun(withOptions(`,interface=iommufd,vf-token=${TOKEN}`));
    if (major > 6 || (major === 6 && minor >= 18)) {
      expect([status, error]).toEqual([RAN, '']);
    } else {
      expect(error).toMatch(/VFIO_DEVICE_BIND_IOMMUFD on .*: EINVAL\n.*too old .*interface=group/);
      const checked = vfs.map((vf) => `${vf},interface=iommufd,vf-token=${TOKEN}`);
      expect(failingRules(checked)['vf-token']?.why).toMatch(/too old .*interface=group/);
      expect(status).toBe(UNAVAILABLE);
    }
  });
});

describe.skipIf(PF === '')('a VF whose physical function is with the host', () => {
  afterAll(() => {
    execSync(`echo 0 > /sys/bus/pci/devices/${PF}/sriov_numvfs`);
    execFileSync('modprobe', ['-r', 'igb']);
  });

  test('takes no token: one that is given is refused with the cause, and it works without', {
    timeout: 200_000,
  }, () => {
    execFileSync('vfio-load');
    const vf = execFileSync('vf-create', [PF, '1'], { encoding: 'utf8' }).trim();
    execFileSync('vfio-bind', [vf]);
    const { status, error } = tsvisorRun(['--device', `${vf},vf-token=${TOKEN}`]);
    expect(error).toMatch(
      /VFIO_GROUP_GET_DEVICE_FD on .*: EINVAL\n {2}hint: \S+: a token is given, and igb of the host/,
    );
    expect(status).toBe(UNAVAILABLE);
    const { 'vf-token': rule } = failingRules([`${vf},vf-token=${TOKEN}`]);
    expect(rule?.text).toBe(`a token is given, and igb of the host has its physical function ${PF}`);
    expect(rule?.advice).toBe('leave vf-token out');
    expect(failingRules([vf])).toEqual({});
    expect(tsvisorRun(['--device', vf]).status).toBe(RAN);
  });
});

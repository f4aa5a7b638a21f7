import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import * as kvm from '../../kvm/index.js';
import { errno } from '../../sys/errno.js';
import {
  LANDLOCK_ACCESS_FS_EXECUTE,
  LANDLOCK_ACCESS_FS_IOCTL_DEV,
  LANDLOCK_ACCESS_FS_REMOVE_FILE,
  LANDLOCK_ACCESS_FS_WRITE_FILE,
} from '../../sys/landlock.js';
import { SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, seccompProgram } from '../../sys/seccomp.js';
import { SYSTEM_CALLS } from '../../sys/system-calls.js';
import { runBpf, seccompData } from '../../sys/testing/bpf-interpreter.js';
import { parseConfig, type VmConfigInput } from '../config.js';
import { type SandboxExtras, sandboxPolicy } from './policy.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-policy-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const policyOf = (config: VmConfigInput = {}, extras: SandboxExtras = {}) =>
  sandboxPolicy(parseConfig(config), extras);

/** Whether the filter of this configuration lets a call through. */
function filterOf(config: VmConfigInput = {}, extras: SandboxExtras = {}) {
  const program = seccompProgram(policyOf(config, extras).calls, 'errno');
  return (name: keyof typeof SYSTEM_CALLS, ...args: number[]): boolean => {
    const result = runBpf(program, seccompData({ nr: SYSTEM_CALLS[name], args }));
    if (result !== SECCOMP_RET_ALLOW) expect(result & 0xffff_0000).toBe(SECCOMP_RET_ERRNO);
    return result === SECCOMP_RET_ALLOW;
  };
}

const device = (address: string, options: Record<string, string> = {}) => ({
  devices: [{ address, options }],
});
const PCI = '0000:01:00.0';
const VFIO_GET_API_VERSION = 0x3b64;
const TUNSETIFF = 0x4004_54ca;
const VHOST_SET_MEM_TABLE = 0x4008_af03;
const VHOST_SET_LOG_BASE = 0x4008_af04;

describe('the filter', () => {
  test('allows every request of kvm/, and none of its neighbours', () => {
    const allows = filterOf();
    const requests = Object.values(kvm).filter(
      (value): value is kvm.Request => typeof value === 'object' && 'hints' in value && 'number' in value,
    );
    expect(requests.length).toBeGreaterThan(50);
    for (const { name, number } of requests) expect(allows('ioctl', 9, number), name).toBe(true);
    const numbers = new Set(requests.map(({ number }) => number));
    for (let nr = 0; nr < 256; nr++) {
      const number = 0xae00 + nr;
      if (!numbers.has(number)) expect(allows('ioctl', 9, number), number.toString(16)).toBe(false);
    }
  });

  test.each([
    ['VFIO', VFIO_GET_API_VERSION, device(PCI)],
    ['a tap', TUNSETIFF, device('virtio-net', { net: 'tap:tap0' })],
    ['a tap of vhost-net', TUNSETIFF, device('virtio-net', { net: 'vhost:tap0' })],
    ['vhost-net', VHOST_SET_MEM_TABLE, device('virtio-net', { net: 'vhost:tap0' })],
    ['vhost-net, for its log', VHOST_SET_LOG_BASE, device('virtio-net', { net: 'vhost:tap0' })],
  ] as const)('allows requests of %s to a machine with such a device only', (_what, request, config) => {
    expect(filterOf(config as VmConfigInput)('ioctl', 9, request)).toBe(true);
    expect(filterOf()('ioctl', 9, request)).toBe(false);
  });

  test('never allows to type into a terminal (TIOCSTI)', () => {
    expect(filterOf(device('mtty-2', { port0: 'pty' }))('ioctl', 0, 0x5412)).toBe(false);
  });

  test.each([
    ['none', {}, {}, []],
    ['vfio-user', device('vfio-user:/run/x'), {}, [1]],
    ['passt', device('virtio-net', { net: 'passt-socket:/run/x' }), {}, [1]],
    ['a serial port', device('mtty-1', { port0: 'unix:/run/x' }), {}, [1]],
    ['a socket of the program', {}, { sockets: ['/run/x'] }, [1]],
    ['a port of the program', {}, { port: 80 }, [2]],
  ] as const)('allows sockets of the families that are needed: %s', (_what, config, extras, families) => {
    const allows = filterOf(config as VmConfigInput, extras);
    const allowed = [1, 2, 10, 16, 17, 40].filter((family) => allows('socket', family, 1, 0));
    expect(allowed).toEqual(families);
    expect(allows('connect', 3)).toBe(families.length > 0);
  });

  test('lets a program accept clients of a socket that it has already, and make or connect no other', () => {
    const allows = filterOf({}, { listeners: ['/run/x'] });
    expect([allows('accept4', 3), allows('listen', 3)]).toEqual([true, true]);
    for (const name of ['bind', 'connect', 'sendmsg'] as const) expect(allows(name, 3)).toBe(false);
    expect(allows('socket', 1, 1, 0)).toBe(false);
    expect(filterOf()('accept4', 3)).toBe(false);
  });

  test('allows threads of this process, and no process', () => {
    const allows = filterOf();
    expect(allows('clone', 0x3d_0f00)).toBe(true); // pthread_create
    for (const flags of [17, 0x1200011, 0x4111, 0x3d_0f00 | 0x1000_0000])
      expect(allows('clone', flags)).toBe(false);
    expect(['execve', 'wait4', 'ptrace', 'seccomp', 'open'].filter((name) => allows(name as 'open'))).toEqual(
      [],
    );
    expect([allows('tgkill', process.pid), allows('tgkill', process.ppid)]).toEqual([true, false]);
    expect([allows('kill', process.pid), allows('kill', -1 >>> 0)]).toEqual([true, false]);
  });

  test('says of clone3 and io_uring that the kernel lacks them: libraries then use others', () => {
    const program = seccompProgram(policyOf().calls, 'kill');
    for (const name of ['clone3', 'io_uring_setup'] as const) {
      const result = runBpf(program, seccompData({ nr: SYSTEM_CALLS[name] }));
      expect(result).toBe(SECCOMP_RET_ERRNO | errno.ENOSYS);
    }
  });
});

describe('files', () => {
  const rightsOf = (path: string, config: VmConfigInput = {}, extras: SandboxExtras = {}): number =>
    policyOf(config, extras)
      .paths.filter((rule) => rule.path === path)
      .reduce((sum, { rights }) => sum | rights, 0);

  test.each([
    ['/dev/kvm', {}],
    ['/dev/vfio', device(PCI)],
    ['/dev/net/tun', device('virtio-net', { net: 'tap:tap0' })],
    ['/dev/net/tun', device('virtio-net', { net: 'vhost:tap0' })],
    ['/dev/vhost-net', device('virtio-net', { net: 'vhost:fd=7' })],
    ['/dev/ptmx', device('mtty-1', { port0: 'pty' })],
    ['/dev/iommu', { devices: [{ address: PCI, options: {}, interface: 'iommufd' }] }],
  ] as const)('%s is controlled by a machine with such a device only', (path, config) => {
    expect(rightsOf(path, config as VmConfigInput) & LANDLOCK_ACCESS_FS_IOCTL_DEV).not.toBe(0);
    if (path !== '/dev/kvm') expect(rightsOf(path)).toBe(0);
  });

  test('a tap that this process serves does not need vhost-net, whose parameters are read otherwise', () => {
    const tap = device('virtio-net', { net: 'tap:tap0' });
    expect(rightsOf('/dev/vhost-net', tap)).toBe(0);
    expect(filterOf(tap)('ioctl', 9, VHOST_SET_MEM_TABLE)).toBe(false);
    const vhost = device('virtio-net', { net: 'vhost:fd=7' });
    expect(rightsOf('/dev/net/tun', vhost)).toBe(0);
    expect(rightsOf('/sys/module/vhost/parameters', vhost)).not.toBe(0);
    expect(policyOf(vhost).descriptors).toEqual([7]);
  });

  test('a tap by descriptor needs no node, and keeps its descriptor; a host device keeps its own', () => {
    const config = {
      devices: [
        { address: 'virtio-net', options: { net: 'tap:fd=7' } },
        { address: 'fd:8', options: { 'container-fd': '9' } },
      ],
    };
    expect(rightsOf('/dev/net/tun', config)).toBe(0);
    expect(policyOf(config).descriptors).toEqual([8, 9, 7]);
    expect(policyOf().descriptors).toEqual([]);
    const both = {
      devices: ['tap:fd=7:8', 'tap:tap0'].map((net) => ({ address: 'virtio-net', options: { net } })),
    };
    expect(policyOf(both).descriptors).toEqual([7, 8]);
    expect(rightsOf('/dev/net/tun', both)).not.toBe(0);
  });

  test('no rule has the root directory or a home, and only programs that run can be executed', () => {
    const { paths } = policyOf(device(PCI));
    expect(paths.map(({ path }) => path)).toEqual(
      expect.not.arrayContaining(['/', '/home', '/etc', '/proc', '/dev']),
    );
    const programs = paths.filter(({ rights }) => (rights & LANDLOCK_ACCESS_FS_EXECUTE) !== 0);
    for (const { path } of programs)
      expect(path === process.execPath || /\/ld[-.][^/]*$/.test(path), path).toBe(true);
  });

  test('a picture’s folder can be written, and a device only itself', () => {
    const written = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    const file = join(folder, 'picture.png');
    expect(rightsOf(folder, {}, { outputs: [file] }) & written).toBe(written);
    writeFileSync(file, '');
    expect(rightsOf(folder, {}, { outputs: [file] }) & written).toBe(written);
    const other = mkdtempSync(join(folder, 'links-'));
    symlinkSync(file, join(other, 'link'));
    expect(rightsOf(other, {}, { outputs: [join(other, 'link')] })).toBe(0);
    expect(rightsOf(folder, {}, { outputs: [join(other, 'link')] }) & written).toBe(written);
    expect(rightsOf('/dev/null', {}, { outputs: ['/dev/null'] }) & LANDLOCK_ACCESS_FS_WRITE_FILE).not.toBe(0);
    expect(rightsOf('/dev', {}, { outputs: ['/dev/null'] })).toBe(0);
  });
});

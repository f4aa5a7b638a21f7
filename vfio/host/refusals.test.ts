import { expect, test } from 'vitest';
import { hva, iova } from '../../sys/address.js';
import { Scope } from '../../sys/scope.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import { noMemoryHint, readLockedMemory } from './memlock.js';
import { type HostProvider, hostProvider } from './provider.js';
import { HOST_ROOTS } from './roots.js';
import { FakeHost, FakeKernel } from './testing/index.js';

const NIC = '0000:01:00.0';
const RELEASE = '6.12.95-amd64';

interface World extends Disposable {
  readonly host: FakeHost;
  readonly kernel: FakeKernel;
  readonly provider: HostProvider;
  readonly dev: string;
}

function world(): World {
  const host = FakeHost.create();
  host.addPci({ address: NIC, driver: 'vfio-pci', group: 26, cdev: 'vfio3' });
  host.file('proc/sys/kernel/osrelease', `${RELEASE}\n`);
  const { dev } = host.roots;
  const kernel = new FakeKernel(dev);
  kernel.addDevice({ name: NIC, group: 26, cdev: 'vfio3' });
  const provider = hostProvider({ system: kernel, sysfs: host.sysfs, roots: host.roots });
  return { host, kernel, provider, dev, [Symbol.dispose]: () => host[Symbol.dispose]() };
}

function messageOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('it did not fail');
}

const dep = (names: string) =>
  names.split(' ').map((name) => `kernel/drivers/vfio/${name}.ko.xz: kernel/virt/x.ko`);

test.each([
  ['is not loaded', { modules: 'vfio pci/vfio-pci' }, /ENODEV\n {2}hint: modprobe vfio-pci$/],
  [
    'was left out of the kernel',
    { modules: 'kvm' },
    /ENODEV\n {2}hint: this kernel was built without CONFIG_VFIO /,
  ],
  [
    'is built in',
    { modules: 'kvm', builtin: 'vfio' },
    /ENODEV\n {2}hint: vfio is loaded, but there is no such file/,
  ],
  ['may be there or not', {}, /ENODEV\n {2}hint: modprobe vfio-pci \(if this kernel has it: CONFIG_VFIO /],
])('/dev/vfio/vfio is missing: vfio %s', (_what, files: { modules?: string; builtin?: string }, message) => {
  using made = world();
  if (files.modules !== undefined)
    made.host.file(`modules/${RELEASE}/modules.dep`, dep(files.modules).join('\n'));
  if (files.builtin !== undefined)
    made.host.file(`modules/${RELEASE}/modules.builtin`, `kernel/drivers/vfio/${files.builtin}.ko\n`);
  made.kernel.removeNode(`${made.dev}/vfio/vfio`);
  expect(messageOf(() => made.provider.groups.openContainer())).toMatch(message);
});

test('/dev/iommu and the cdevs are missing: the options are named, and that groups do without', () => {
  using made = world();
  made.host.file(`modules/${RELEASE}/modules.dep`, dep('vfio').join('\n'));
  made.kernel.removeNode(`${made.dev}/iommu`);
  made.kernel.removeNode(`${made.dev}/vfio/devices/vfio3`);
  expect(messageOf(() => made.provider.cdevs.openIommufd())).toMatch(
    /^open on .*\/iommu: ENODEV\n.*built without CONFIG_IOMMUFD.*groups work without it/,
  );
  expect(messageOf(() => made.provider.cdevs.openCdev('vfio3'))).toMatch(
    /ENODEV\n.*no such file: is \/dev a devtmpfs/,
  );
  made.host.remove('sys/class/vfio-dev/vfio3/dev');
  expect(messageOf(() => made.provider.cdevs.openCdev('vfio3'))).toMatch(/ENODEV\n.*CONFIG_VFIO_DEVICE_CDEV/);
  expect(messageOf(() => made.provider.cdevs.openCdev('vfio9'))).toMatch(
    /ENODEV\n.*no device with a vfio driver/,
  );
});

test('a group without a device of VFIO’s names its members', () => {
  using made = world();
  made.host.addPci({ address: '0000:02:00.0', driver: 'nvme', group: 27 });
  expect(messageOf(() => made.provider.groups.openGroup(27))).toMatch(
    /^open on .*vfio\/27: ENODEV\n.*no device of group 27 is with a vfio driver: 0000:02:00\.0 \(nvme\)/,
  );
  expect(messageOf(() => made.provider.groups.openGroup(99))).toMatch(/^find on IOMMU group 99: ENODEV/);
});

test('a group of VFIO’s devices that has no file: the kernel has only cdevs, or /dev is another', () => {
  using made = world();
  made.kernel.removeNode(`${made.dev}/vfio/26`);
  const refusal = () => messageOf(() => made.provider.groups.openGroup(26));
  expect(refusal()).toMatch(/^open on .*vfio\/26: ENODEV\n.*CONFIG_VFIO_GROUP; use interface iommufd/);
  made.host.file('sys/class/vfio/26/dev', '237:26\n');
  expect(refusal()).toMatch(/ENODEV\n.*no such file: is \/dev a devtmpfs/);
});

test('a group that is open elsewhere names the process', () => {
  using made = world();
  using held = made.provider.groups.openGroup(26);
  made.host.link('proc/4711/fd/12', `${made.dev}/vfio/26`);
  made.host.link('proc/4711/fd/13', '/dev/null');
  made.host.file('proc/4711/comm', 'qemu-system-x86\n');
  made.host.link('proc/815/fd/3', '/dev/null');
  expect(messageOf(() => made.provider.groups.openGroup(26))).toMatch(
    /EBUSY\n {2}hint: a group has one user at a time, through its file or its cdevs: held by process 4711 \(qemu-system-x86\)$/,
  );
  made.host.link(`proc/${process.pid}/fd/12`, `${made.dev}/vfio/26`);
  expect(messageOf(() => made.provider.groups.openGroup(26))).toMatch(
    /held by (this process itself and )?process 4711/,
  );
  using cdev = made.provider.cdevs.openCdev('vfio3');
  using iommufd = made.provider.cdevs.openIommufd();
  // By the device's address, not by the file that it was opened by.
  expect(messageOf(() => cdev.bindIommufd(iommufd))).toMatch(
    /^VFIO_DEVICE_BIND_IOMMUFD on 0000:01:00\.0: EBUSY\n.*open through the group file; held by .*4711/,
  );
  expect(held.fd).toBeGreaterThan(0);
});

test('a group whose device is bound by its cdev elsewhere names that process', () => {
  using made = world();
  made.host.link('proc/4712/fd/12', `${made.dev}/vfio/devices/vfio3`);
  made.host.file('proc/4712/comm', 'node\n');
  made.kernel.failNext(`open ${made.dev}/vfio/26`, 'EBUSY');
  expect(messageOf(() => made.provider.groups.openGroup(26))).toMatch(/held by process 4712 \(node\)/);
});

test('a group whose holder cannot be seen says so', () => {
  using made = world();
  made.kernel.failNext(`open ${made.dev}/vfio/26`, 'EBUSY');
  expect(messageOf(() => made.provider.groups.openGroup(26))).toMatch(
    /it is open in another process, which this user cannot see/,
  );
});

test.each([
  ['group', 'EACCES', 'vfio/26', /hint: .*sudo chown "\$USER" \S*vfio\/26 /],
  ['group', 'EPERM', 'vfio/26', /CAP_SYS_RAWIO/],
  [
    'container',
    'EACCES',
    'vfio/vfio',
    /sudo chmod 0666 \S*vfio\/vfio; .*sudo chown "\$USER" \/dev\/vfio\/GROUP/,
  ],
  [
    'iommufd',
    'EACCES',
    'iommu',
    /sudo chown "\$USER" \S*iommu .*node under \/dev\/vfio\/devices needs the same/,
  ],
  ['cdev', 'EACCES', 'vfio/devices/vfio3', /sudo chown "\$USER" \S*vfio\/devices\/vfio3 /],
] as const)(
  'a %s that may not be opened (%s) names the command that gives the right',
  (what, code, node, message) => {
    using made = world();
    const { groups, cdevs } = made.provider;
    const open = {
      group: () => groups.openGroup(26),
      container: () => groups.openContainer(),
      iommufd: () => cdevs.openIommufd(),
      cdev: () => cdevs.openCdev('vfio3'),
    };
    made.kernel.failNext(`open ${made.dev}/${node}`, code);
    expect(messageOf(open[what])).toMatch(message);
  },
);

test('groups with and without an IOMMU do not share a container, and the error says why', () => {
  using made = world();
  made.host.addPci({ address: '0000:03:00.0', driver: 'vfio-pci', group: 5 });
  made.host.file('sys/class/vfio/noiommu-5/dev', '511:5');
  made.kernel.addDevice({ name: '0000:03:00.0', group: 5, isNoiommu: true });
  using scope = new Scope();
  const container = scope.own(made.provider.groups.openContainer());
  scope.own(made.provider.groups.openGroup(26)).setContainer(container);
  const noiommu = scope.own(made.provider.groups.openGroup(5));
  expect(noiommu.target).toMatch(/noiommu-5$/);
  expect(messageOf(() => noiommu.setContainer(container))).toMatch(
    /^VFIO_GROUP_SET_CONTAINER .*EPERM\n.*without an IOMMU \(noiommu\) cannot share a container/,
  );
});

test('interrupts that cannot be remapped are told with the parameter that takes the risk', () => {
  using made = world();
  using scope = new Scope();
  const container = scope.own(made.provider.groups.openContainer());
  scope.own(made.provider.groups.openGroup(26)).setContainer(container);
  made.kernel.failNext('VFIO_SET_IOMMU', 'EPERM');
  expect(messageOf(() => container.setIommu(VFIO_TYPE1v2_IOMMU))).toMatch(/EPERM\n.*allow_unsafe_interrupts/);
});

const MIB = 2 ** 20;
const limits = (soft: string, hard: string): string =>
  'Limit                     Soft Limit           Hard Limit           Units     \n' +
  'Max processes             63000                63000                processes \n' +
  `Max locked memory         ${soft.padEnd(21)}${hard.padEnd(21)}bytes     \n`;

test('a map that the locked-memory limit does not allow says need, have, and how to raise it', () => {
  using made = world();
  made.host.file('proc/self/limits', limits(String(8 * MIB), String(4096 * MIB)));
  made.host.file('proc/self/status', `Name:\tnode\nVmLck:\t    4096 kB\n`);
  using scope = new Scope();
  const container = scope.own(made.provider.groups.openContainer());
  const group = scope.own(made.provider.groups.openGroup(26));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  made.kernel.memlock = 4 * MIB;
  const map = { flags: 3, vaddr: hva(0x10_0000n), iova: iova(0n), size: 512n * 2n ** 20n };
  const message = messageOf(() => container.mapDma(map));
  expect(message).toMatch(/^VFIO_IOMMU_MAP_DMA on .*vfio, IOVA 0x0-0x1fffffff: ENOMEM\n/);
  expect(message).toMatch(/516 MiB are needed \(4 MiB are locked, 512 MiB more are asked for\)/);
  expect(message).toMatch(/RLIMIT_MEMLOCK is 8 MiB \(hard limit 4096 MiB\)/);
  expect(message).toMatch(/ulimit -l 528384; for good: .*limits\.conf, LimitMEMLOCK=/);
});

test('a hard limit that is too low needs root', () => {
  using made = world();
  made.host.file('proc/self/limits', limits(String(MIB), String(MIB)));
  expect(noMemoryHint(made.host.roots, 2 * MIB)).toMatch(/prlimit --pid \$\$ --memlock=2097152 \(as root\)/);
});

test.each([
  ['unlimited', 'unlimited'],
  [String(1024 * MIB), 'unlimited'],
])('with a limit of %s it is the memory that is missing', (soft, hard) => {
  using made = world();
  made.host.file('proc/self/limits', limits(soft, hard));
  expect(noMemoryHint(made.host.roots, 2 * MIB)).toMatch(
    /^the kernel could not pin 2 MiB: is that much memory free/,
  );
});

test.each([
  {
    what: 'what is locked counts',
    locked: 1024,
    soft: 2 * MIB,
    hard: 8 * MIB,
    is: /^locked memory: 3 MiB are/,
  },
  {
    what: 'the limit itself is allowed',
    locked: 1024,
    soft: 3 * MIB,
    hard: 8 * MIB,
    is: /^the kernel could not/,
  },
  { what: 'a byte less is not', locked: 1024, soft: 3 * MIB - 1, hard: 8 * MIB, is: /ulimit -l 3072;/ },
  { what: 'the hard limit itself is allowed', locked: 1024, soft: MIB, hard: 3 * MIB, is: /ulimit -l 3072;/ },
  {
    what: 'a byte less needs root',
    locked: 1024,
    soft: MIB,
    hard: 3 * MIB - 1,
    is: /--memlock=3145728 \(as root/,
  },
])('locked memory: $what', ({ locked, soft, hard, is }) => {
  using made = world();
  made.host.file('proc/self/limits', limits(String(soft), String(hard)));
  made.host.file('proc/self/status', `Name:\tnode\nVmLck:\t    ${locked} kB\n`);
  expect(noMemoryHint(made.host.roots, 2 * MIB)).toMatch(is);
  expect(readLockedMemory(made.host.roots)).toEqual({ limit: soft, hardLimit: hard, locked: locked * 1024 });
});

test('limits that /proc does not report are unknown, and nothing locked is 0', () => {
  using made = world();
  expect(readLockedMemory(made.host.roots)).toBe(undefined);
  expect(noMemoryHint(made.host.roots, MIB)).toMatch(/^the kernel could not pin 1 MiB/);
  made.host.file('proc/self/limits', limits('unlimited', 'unlimited'));
  expect(readLockedMemory(made.host.roots)).toEqual({ limit: Infinity, hardLimit: Infinity, locked: 0 });
});

test('this process’s own limits are read', () => {
  const memory = readLockedMemory(HOST_ROOTS);
  expect(memory?.limit).toBeGreaterThan(0);
  expect(memory?.hardLimit).toBeGreaterThanOrEqual(memory?.limit ?? 0);
});

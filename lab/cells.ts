import type { VfioInterface } from './guests.js';
import type { OtherKernel } from './images.js';
import type { L1Options } from './l1.js';
import { DRIVEN, type L2Check } from './l2.js';
import { parseServed } from './served.js';

/** A set of devices passed through together, and the expected results in L2. */
export interface Cell {
  readonly name: string;
  readonly checks: readonly L2Check[];
  /** Results that L2 must print, all of them ok. */
  readonly expected: readonly string[];
  /** Bash in L1 that prepares the devices and stores their addresses or UUIDs in `devices`. */
  readonly attach: string;
  /** Bash in L1 that returns them to the host. */
  readonly detach: string;
  readonly parameters?: readonly string[];
  /** The device is emulated by tsvisor, so L1's QEMU cannot use it. */
  readonly isInProcess?: true;
  /** The device has no cdev to bind to an iommufd. */
  readonly isByGroupOnly?: true;
  /** Virtual CPUs of L2; 1 by default. */
  readonly cpus?: number;
  /** Of L2, in MiB; 256 by default. */
  readonly memory?: number;
  /** Another kernel for L2 than L1's own. */
  readonly kernel?: OtherKernel;
  /** The L1 that it needs. Cells with the same one, in a row, share its boot. */
  readonly l1?: L1Options;
  /** Runs only by name, or with --all: it takes long, or differs little from another. */
  readonly isNightly?: true;
  /** This interface runs only by name, or with --all: the device meets the same code by the other one. */
  readonly nightly?: VfioInterface;
  /** On an idle machine; 120 s by default. */
  readonly timeoutMs?: number;
}

const nicChecks: readonly L2Check[] = ['dhcp', 'ping', 'fetch', 'interrupts'];
const nicResults = (nic: string): string[] => ['dhcp', 'ping', 'fetch'].map((check) => `${check}.${nic}`);

const passThrough = (...variables: string[]): Pick<Cell, 'attach' | 'detach'> => {
  const list = variables.map((variable) => `$${variable}`).join(' ');
  return { attach: `devices="${list}"; vfio-bind $devices`, detach: `vfio-unbind $devices` };
};

const mediated = (...types: string[]): Pick<Cell, 'attach' | 'detach'> => ({
  attach: `devices="${types.map((type) => `$(mdev-create ${type})`).join(' ')}"`,
  detach: 'for uuid in $devices; do echo 1 > /sys/bus/mdev/devices/$uuid/remove; done',
});

/** One tsvisor serves the device, and the one under test connects to it by vfio-user. */
const served = (device: string): Pick<Cell, 'attach' | 'detach' | 'isInProcess' | 'isByGroupOnly'> => ({
  attach:
    `node dist/vmm/cli.js serve ${device} --socket /run/served & server=$!; ` +
    'until [ -S /run/served ]; do sleep 0.1; done; devices=vfio-user:/run/served',
  detach: 'kill $server; wait $server',
  isInProcess: true,
  isByGroupOnly: true,
});

const nic = { checks: nicChecks, expected: nicResults('eth0') };

const upsetSteps = ['rebind', 'function_reset', 'd3hot', 'moved_bars', 'remove'];
/** What a guest may do to a NIC: it works after each step. */
const upset: Pick<Cell, 'checks' | 'expected' | 'timeoutMs'> = {
  checks: ['dhcp', 'upset', 'ping', 'fetch'],
  expected: [...upsetSteps.map((step) => `${step}.eth0`), ...nicResults('eth0')],
  timeoutMs: 180_000,
};

/** Ten functions of nine kinds at once. */
const everything = [
  ...['LAB_E1000E', 'LAB_VIRTIO_NET', 'LAB_IGB', 'LAB_NVME', 'LAB_EDU', 'LAB_E1000E_PORT'],
  ...['LAB_PAIR', 'LAB_PAIR_1', 'LAB_XHCI', 'LAB_RTL8139'],
];
const sevenNics = [0, 1, 2, 3, 4, 5, 6].map((number) => `eth${number}`);

/** Served to an L1 without other devices, and driven by its driver in L2. */
const testCard: Pick<Cell, 'checks' | 'expected' | 'attach' | 'detach' | 'l1'> = {
  checks: ['driven'],
  expected: DRIVEN,
  ...passThrough('LAB_TESTCARD'),
  l1: { devices: [], served: parseServed(['testcard,vectors=16']) },
};

/** The tested combinations of device and interrupt type. */
export const cells: readonly Cell[] = [
  { name: 'e1000e MSI-X', ...nic, ...passThrough('LAB_E1000E') },
  { name: 'e1000e INTx', nightly: 'group', ...nic, ...passThrough('LAB_E1000E'), parameters: ['pci=nomsi'] },
  { name: 'e1000e MSI-X, 2 vCPUs', nightly: 'iommufd', ...nic, ...passThrough('LAB_E1000E'), cpus: 2 },
  {
    name: 'e1000e INTx, 2 vCPUs',
    ...nic,
    ...passThrough('LAB_E1000E'),
    parameters: ['pci=nomsi'],
    cpus: 2,
    isNightly: true,
  },
  { name: 'igb', nightly: 'iommufd', ...nic, ...passThrough('LAB_IGB') },
  {
    name: 'igb VF',
    ...nic,
    attach: 'devices=$(vf-create $LAB_IGB 1); vfio-bind $devices',
    detach: 'vfio-unbind $devices; echo 0 > /sys/bus/pci/devices/$LAB_IGB/sriov_numvfs',
  },
  { name: 'virtio-net', nightly: 'group', ...nic, ...passThrough('LAB_VIRTIO_NET') },
  { name: 'nvme', checks: ['disk', 'interrupts'], expected: ['disk.nvme0n1'], ...passThrough('LAB_NVME') },
  {
    name: 'e1000e + nvme',
    checks: [...nicChecks, 'disk'],
    expected: [...nicResults('eth0'), 'disk.nvme0n1'],
    ...passThrough('LAB_E1000E', 'LAB_NVME'),
    isNightly: true, // ten devices have both
  },
  {
    name: 'mtty',
    nightly: 'group',
    checks: ['tty'],
    expected: ['tty.ttyS1', 'tty.ttyS2'],
    ...mediated('mtty-2'),
  },
  { name: 'mdpy', checks: ['fb'], expected: ['fb.fb0'], ...mediated('mdpy-xga'), isNightly: true }, // as mbochs
  {
    name: 'mtty in process',
    nightly: 'iommufd',
    checks: ['tty'],
    expected: ['tty.ttyS1', 'tty.ttyS2'],
    // The first port echoes through a program at the other end of a socket, the second through its own loopback.
    attach:
      "node -e \"require('net').createServer((s) => s.pipe(s)).listen('/run/echo')\" & echo=$!; " +
      'until [ -S /run/echo ]; do sleep 0.1; done; devices=mtty-2,port0=unix:/run/echo',
    detach: 'kill $echo; rm /run/echo',
    isInProcess: true,
  },
  {
    name: 'vgpu in process',
    nightly: 'group',
    checks: ['fb'],
    expected: ['fb.fb0'],
    attach: 'devices=vgpu-small',
    detach: 'true',
    isInProcess: true,
  },
  {
    name: 'virtio-net in process',
    nightly: 'group',
    ...nic,
    attach: 'net-up $LAB_E1000E; devices=virtio-net,net=passt:no-map-gw',
    detach: 'net-down $LAB_E1000E',
    isInProcess: true,
  },
  {
    name: 'virtio-net over a TAP',
    nightly: 'iommufd',
    checks: [...nicChecks, 'offloads'],
    expected: [...nicResults('eth0'), 'offloads.eth0'],
    attach: 'tap-up $LAB_E1000E; devices=virtio-net,net=tap:tap0',
    detach: 'tap-down $LAB_E1000E',
    isInProcess: true,
  },
  {
    name: 'test card with VFs',
    nightly: 'group',
    checks: ['vfs'],
    expected: ['total', 'enabled', 'ids', 'registers', 'dma', 'reset', 'disabled', 'again'].map(
      (step) => `vfs.${step}`,
    ),
    attach: 'devices=testcard,vfs=3,ram=64K',
    detach: 'true',
    parameters: ['memmap=64K$0xf000000'],
    isInProcess: true,
    timeoutMs: 180_000,
  },
  { name: 'test card MSI-X', ...testCard },
  { name: 'test card INTx', ...testCard, parameters: ['pci=nomsi'], isNightly: true },
  {
    // That none of it passes this process is tried by vhost.nightly.lab.test.ts.
    name: 'virtio-net over vhost-net',
    checks: [...nicChecks, 'offloads'],
    expected: [...nicResults('eth0'), 'offloads.eth0'],
    attach: 'modprobe vhost_net; tap-up $LAB_E1000E; devices=virtio-net,net=vhost:tap0',
    detach: 'tap-down $LAB_E1000E',
    isInProcess: true,
    isNightly: true,
  },
  {
    name: 'virtio-blk in process',
    nightly: 'iommufd',
    checks: ['disk', 'interrupts'],
    expected: ['disk.vda', 'disk.vdb'],
    attach:
      'truncate -s 64M /run/disk; devices="virtio-blk,file=/run/disk,overlay=/run/overlay ' +
      'virtio-blk,file=/run/second"; cp /run/disk /run/second',
    detach: 'rm /run/disk /run/overlay /run/second',
    isInProcess: true,
  },
  {
    name: 'mtty by vfio-user',
    checks: ['tty'],
    expected: ['tty.ttyS1', 'tty.ttyS2'],
    ...served('mtty-2'),
    isNightly: true, // two more devices are served
  },
  { name: 'vgpu by vfio-user', checks: ['fb'], expected: ['fb.fb0'], ...served('vgpu-small') },
  {
    name: 'virtio-net by vfio-user',
    checks: ['dhcp', 'ping'],
    expected: ['dhcp.eth0', 'ping.eth0'],
    ...served('virtio-net'),
  },
  { name: 'mbochs', nightly: 'iommufd', checks: ['fb'], expected: ['fb.fb0'], ...mediated('mbochs-small') },
  {
    name: 'ten devices',
    checks: ['dhcp', 'ping', 'disk', 'interrupts'],
    expected: [...sevenNics.flatMap((each) => [`dhcp.${each}`, `ping.${each}`]), 'disk.nvme0n1'],
    ...passThrough(...everything),
    memory: 512,
    timeoutMs: 180_000,
  },
  // Neither has a reset of its own, and both are in one group: both are reset by the bus.
  {
    name: 'two functions without FLR',
    checks: nicChecks,
    expected: [...nicResults('eth0'), ...nicResults('eth1')],
    ...passThrough('LAB_PAIR', 'LAB_PAIR_1'),
  },
  {
    name: 'two igb VFs',
    checks: nicChecks,
    expected: [...nicResults('eth0'), ...nicResults('eth1')],
    attach: 'devices=$(vf-create $LAB_IGB 2); vfio-bind $devices',
    detach: 'vfio-unbind $devices; echo 0 > /sys/bus/pci/devices/$LAB_IGB/sriov_numvfs',
    isNightly: true, // one alone is tried, and two functions of a port together
  },
  { name: 'e1000e upset', nightly: 'group', ...upset, ...passThrough('LAB_E1000E') },
  { name: 'virtio-net upset', ...upset, ...passThrough('LAB_VIRTIO_NET'), isNightly: true },
  { name: 'igb upset', ...upset, ...passThrough('LAB_IGB'), isNightly: true },
  {
    name: 'e1000e, pci=noacpi',
    ...nic,
    ...passThrough('LAB_E1000E'),
    parameters: ['pci=noacpi'],
    isNightly: true,
  },
  {
    name: 'e1000e, acpi=off',
    checks: [...nicChecks, 'restart'], // without ACPI, Linux cannot switch the machine off
    expected: nicResults('eth0'),
    ...passThrough('LAB_E1000E'),
    parameters: ['acpi=off', 'reboot=k'],
    isNightly: true,
  },
  ...(['stable', 'cloud', 'sid'] as const).map(
    (kernel): Cell => ({
      name: `virtio-net + nvme, kernel ${kernel}`,
      checks: [...nicChecks, 'disk'],
      expected: [...nicResults('eth0'), 'disk.nvme0n1'],
      ...passThrough('LAB_VIRTIO_NET', 'LAB_NVME'),
      kernel,
      isNightly: true,
    }),
  ),
  {
    name: 'e1000e, 5 GiB',
    ...nic,
    ...passThrough('LAB_E1000E'),
    memory: 5120,
    l1: { memory: 7168 },
    timeoutMs: 240_000,
    isNightly: true,
  },
];

import { join } from 'node:path';
import { type DeviceName, deviceArguments } from './devices.js';
import { imageFolder } from './images.js';
import { type ServedDevice, servedArguments } from './served.js';
import { qemu11, rootOf, type Userland, userland } from './userland.js';

export interface L1Machine {
  readonly devices: readonly DeviceName[];
  readonly cpus: number;
  /** In MiB. */
  readonly memory: number;
  /** A login shell on this terminal instead of the mailbox. */
  readonly shell: boolean;
  /** False omits the IOMMU, and with it all groups. */
  readonly iommu: boolean;
  /** Devices that tsvisor serves to it. */
  readonly served: readonly ServedDevice[];
}

/** Folders of this machine that L1 mounts. */
export interface L1Folders {
  readonly project: string;
  /** Folder of the `node` binary that runs the lab. */
  readonly node: string;
  /** The folder of this boot: sockets, disks, console, and the commands to run. */
  readonly run: string;
}

const share = (slot: string, tag: string, path: string, readonly: boolean): string[] => [
  '-fsdev',
  `local,id=${tag},path=${path},security_model=none,multidevs=remap${readonly ? ',readonly=on' : ''}`,
  '-device',
  `virtio-9p-pci,fsdev=${tag},mount_tag=${tag},bus=pcie.0,addr=${slot}`,
];

/** The userland whose QEMU runs it: only Debian's newest has a client of vfio-user. */
export const qemuOf = ({ served }: Pick<L1Machine, 'served'>): Userland =>
  served.length > 0 ? qemu11 : userland;

/** A client of vfio-user maps L1's memory, and the IOMMU tells it what to map for its device. */
function memoryArguments({ memory, served, iommu }: L1Machine): string[] {
  const intel = ['intel-iommu', 'intremap=on', ...(served.length > 0 ? ['caching-mode=on'] : [])];
  const ram = [
    ...['-machine', 'q35,memory-backend=mem'],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory}M,share=on`],
  ];
  return [
    ...(served.length > 0 ? ram : ['-machine', 'q35']),
    ...['-m', `${memory}`],
    ...(iommu ? ['-device', intel.join()] : []),
    // With ACPI's hotplug, QEMU's ports say that they have no link, and Linux then does not believe in a reset of the bus.
    ...(served.length > 0 ? ['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'] : []),
  ];
}

/**
 * QEMU's arguments for L1: software emulation of a q35 machine with VT-d, and an AMD CPU with nested virtualisation.
 * @param socketOf where a served device is
 */
export function l1Arguments(
  machine: L1Machine,
  folders: L1Folders,
  socketOf: (name: string) => string = () => '',
): string[] {
  const root = rootOf(userland);
  const own = rootOf(qemuOf(machine));
  const kernel = [
    ...['console=ttyS0', 'quiet', 'loglevel=4', 'panic=-1', 'nokaslr', 'mitigations=off', 'nowatchdog'],
    ...[
      'random.trust_cpu=on',
      'tsc=reliable',
      'intel_iommu=on',
      'iommu=pt',
      `lab.project=${folders.project}`,
    ],
    ...(machine.shell ? ['lab.shell'] : []),
  ];
  const monitor = `path=${join(folders.run, 'monitor')}`;
  return [
    ...[
      '-L',
      join(own, 'usr/share/seabios'),
      '-L',
      join(own, 'usr/share/qemu'),
      '-L',
      join(own, 'usr/lib/ipxe/qemu'),
    ],
    ...['-accel', 'tcg,thread=multi,tb-size=512', ...memoryArguments(machine)],
    // With virtual GIF, QEMU 10.0 sometimes loses a timer interrupt of L1 while L2 runs, and the CPU hangs.
    ...['-cpu', 'max,la57=off,-vgif', '-smp', `${machine.cpus}`],
    ...['-nodefaults', '-display', 'none', '-no-reboot'],
    ...['-serial', machine.shell ? 'stdio' : `file:${join(folders.run, 'console')}`],
    // The ELF kernel: in software emulation, unpacking the bzImage takes most of a second.
    ...['-kernel', join(imageFolder, 'vmlinux'), '-initrd', join(imageFolder, 'l1.initrd')],
    ...['-append', kernel.join(' ')],
    ...share('2', 'root', root, true),
    ...share('3', 'project', folders.project, true),
    ...share('4', 'node', folders.node, true),
    ...share('5', 'run', folders.run, false),
    ...['-device', 'virtio-serial-pci,bus=pcie.0,addr=6'],
    ...['-chardev', `socket,id=lab,path=${join(folders.run, 'mailbox')},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=lab,name=lab'],
    // L1 can use the monitor of its own QEMU: one end of the socket is the monitor, the other a port of L1.
    ...[
      '-chardev',
      `socket,id=monitor,${monitor},server=on,wait=off`,
      '-mon',
      'chardev=monitor,mode=control',
    ],
    ...['-chardev', `socket,id=hmp,${monitor}`, '-device', 'virtserialport,chardev=hmp,name=hmp'],
    ...deviceArguments(machine.devices, (name) => join(folders.run, `${name}.img`)),
    ...servedArguments(machine.served, socketOf),
  ];
}

import { join } from 'node:path';
import { type DeviceName, deviceArguments } from './devices.js';
import { imageFolder } from './images.js';
import { rootOf, userland } from './userland.js';

export interface L1Machine {
  readonly devices: readonly DeviceName[];
  readonly cpus: number;
  /** In MiB. */
  readonly memory: number;
  /** A login shell on this terminal instead of the mailbox. */
  readonly shell: boolean;
  /** False omits the IOMMU, and with it all groups. */
  readonly iommu: boolean;
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

/**
 * QEMU's arguments for L1: software emulation of a q35 machine with VT-d, and an AMD CPU with nested virtualisation.
 */
export function l1Arguments(machine: L1Machine, folders: L1Folders): string[] {
  const root = rootOf(userland);
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
      join(root, 'usr/share/seabios'),
      '-L',
      join(root, 'usr/share/qemu'),
      '-L',
      join(root, 'usr/lib/ipxe/qemu'),
    ],
    ...['-accel', 'tcg,thread=multi,tb-size=512', '-machine', 'q35'],
    // With virtual GIF, QEMU 10.0 sometimes loses a timer interrupt of L1 while L2 runs, and the CPU hangs.
    ...['-cpu', 'max,la57=off,-vgif', '-smp', `${machine.cpus}`, '-m', `${machine.memory}`],
    ...['-nodefaults', '-display', 'none', '-no-reboot'],
    ...(machine.iommu ? ['-device', 'intel-iommu,intremap=on'] : []),
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
  ];
}

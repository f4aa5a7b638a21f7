import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { imageFolder } from './images.js';
import { cacheFolder } from './paths.js';
import { output } from './process.js';
import { runSteps, type Step } from './step.js';
import { machineSources, rootOf, type Userland, userland, userlandStep } from './userland.js';

/** Paths in L1 of a Debian disk, and of the kernel and initial RAM disk that lie in it. */
export const debianInL1 = {
  disk: '/lab/debian.raw',
  kernel: '/lab/debian.vmlinuz',
  initrd: '/lab/debian.initrd',
} as const;

/** Whom a test logs in as. */
export const debianLogin = { user: 'root', password: 'tsvisor' } as const;

/** The program that installs it; a Perl script, which runs on this machine. */
const installer: Userland = {
  name: 'mmdebstrap',
  suites: ['%s'],
  packages: ['mmdebstrap'],
  only: '^mmdebstrap_',
};

const SECTOR = 512;
const DISK_BYTES = 2 * 2 ** 30;
const PARTITION_AT = 2 ** 20;

/** A system that a person would install: systemd, udev, the release's kernel, and its initial RAM disk. */
const packages = ['systemd-sysv', 'udev', 'initramfs-tools', 'linux-image-amd64', 'kmod', 'login', 'wget'];

/** Drivers of what no guest here has: three quarters of the kernel's package. */
const leftOut = [
  ...['/usr/share/doc/*', '/usr/share/man/*', '/usr/share/locale/*'],
  ...['sound', 'net/wireless', 'net/mac80211', 'net/bluetooth', 'fs/xfs', 'fs/btrfs'].map(
    (name) => `/lib/modules/*/kernel/${name}/*`,
  ),
  ...['gpu', 'media', 'net/wireless', 'staging', 'infiniband', 'iio', 'scsi', 'isdn', 'usb'].map(
    (name) => `/lib/modules/*/kernel/drivers/${name}/*`,
  ),
];

/** Before the packages are configured: with all drivers, the initial RAM disk takes minutes to unpack in L2. */
const BEFORE = `
  mkdir -p "$1/etc/initramfs-tools/conf.d"
  echo MODULES=list > "$1/etc/initramfs-tools/conf.d/lab"
  printf 'virtio_pci\\nvirtio_blk\\next4\\n' >> "$1/etc/initramfs-tools/modules"`;

const AFTER = `
  echo debian > "$1/etc/hostname"
  echo '127.0.0.1 localhost debian' > "$1/etc/hosts"
  echo '/dev/vda1 / ext4 errors=remount-ro 0 1' > "$1/etc/fstab"
  echo '${debianLogin.user}:${debianLogin.password}' | chroot "$1" chpasswd
  printf '[Match]\\nName=en*\\n[Network]\\nDHCP=ipv4\\n' > "$1/etc/systemd/network/nic.network"
  chroot "$1" systemctl -q enable systemd-networkd`;

async function install(root: string): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new Error('a Debian disk is installed by root only: run the lab as root');
  const { text, suites } = machineSources(installer.suites);
  const programs = join(rootOf(installer), 'usr/bin');
  const folder = join(cacheFolder, 'debian-disk');
  mkdirSync(folder, { recursive: true });
  const hook = (name: string, script: string): string => {
    const path = join(folder, name);
    writeFileSync(path, `#!/bin/sh -e${script}\n`, { mode: 0o755 });
    return path;
  };
  writeFileSync(join(folder, 'lab.sources'), text);
  await output(
    [
      ...['mmdebstrap', '--mode=root', '--variant=minbase', '--format=directory'],
      `--include=${packages.join()}`,
      ...leftOut.map((path) => `--dpkgopt=path-exclude=${path}`),
      `--essential-hook=${hook('before', BEFORE)}`,
      `--customize-hook=${hook('after', AFTER)}`,
      ...[suites[0]!, root, join(folder, 'lab.sources')],
    ],
    { env: { ...process.env, PATH: `${programs}:/usr/sbin:/usr/bin:/sbin:/bin` } },
  );
  rmSync(folder, { recursive: true });
}

/** A DOS partition table with one Linux partition, from PARTITION_AT to the end. */
function partitionTable(): Uint8Array {
  const table = new DataView(new ArrayBuffer(SECTOR));
  const ENTRY = 446;
  table.setUint8(ENTRY + 4, 0x83);
  table.setUint32(ENTRY + 8, PARTITION_AT / SECTOR, true);
  table.setUint32(ENTRY + 12, (DISK_BYTES - PARTITION_AT) / SECTOR, true);
  table.setUint16(510, 0xaa55, true);
  return new Uint8Array(table.buffer);
}

async function makeDisk(): Promise<void> {
  const root = join(cacheFolder, 'debian-root');
  const disk = join(imageFolder, 'debian.raw');
  rmSync(root, { recursive: true, force: true });
  rmSync(disk, { force: true });
  await install(root);
  writeFileSync(disk, '');
  truncateSync(disk, DISK_BYTES);
  const fd = openSync(disk, 'r+');
  writeSync(fd, partitionTable());
  closeSync(fd);
  const blocks = (DISK_BYTES - PARTITION_AT) / 1024;
  await output([
    '/usr/sbin/mke2fs',
    '-q',
    '-t',
    'ext4',
    '-d',
    root,
    '-E',
    `offset=${PARTITION_AT}`,
    disk,
    `${blocks}k`,
  ]);
  const boot = join(root, 'boot');
  const named = (prefix: string) => join(boot, readdirSync(boot).find((name) => name.startsWith(prefix))!);
  copyFileSync(named('vmlinuz-'), join(imageFolder, 'debian.vmlinuz'));
  copyFileSync(named('initrd.img-'), join(imageFolder, 'debian.initrd'));
  rmSync(root, { recursive: true });
}

/**
 * Installs Debian into a disk image, if the cache has none. Takes two minutes; as root only. Before L1 boots: it sees no
 * files that appear later.
 */
export async function prepareDebianDisk(): Promise<void> {
  const program = userlandStep(installer);
  const disk: Step = {
    name: 'debian-disk',
    inputs: [
      // It lies among the images, which go with the userland.
      ...userlandStep(userland).inputs,
      ...program.inputs,
      ...[packages.join(), leftOut.join(), BEFORE, AFTER, String(DISK_BYTES), String(PARTITION_AT)],
    ],
    build: makeDisk,
  };
  await runSteps([program, disk]);
}

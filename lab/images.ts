import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CpioEntry, cpio, S_IFLNK, S_IFREG } from './cpio.js';
import { labFolder } from './paths.js';
import { runSteps, type Step } from './step.js';
import { rootOf, runInside, userland, userlandStep } from './userland.js';

/** Folder of the images on this machine; L1 mounts it as /lab. */
export const imageFolder = join(rootOf(userland), 'lab');

/** Paths of the lab's files in L1. */
export const inL1 = {
  /** bzImage of L1's kernel, which L2 uses too. */
  kernel: '/lab/vmlinuz',
  /** The same kernel as an ELF file with a PVH entry. */
  kernelElf: '/lab/vmlinux',
  initrd: '/lab/l2.initrd',
} as const;

const l1Modules = ['9pnet_virtio', '9p', 'overlay'];
const l2Modules = ['e1000e', 'igb', 'igbvf', 'virtio_net', 'virtio_blk', 'nvme', 'bochs', 'mdpy-fb'];

/**
 * Runs inside the userland: copies modules with their dependencies, uncompressed, and builds the index for modprobe.
 */
const stage = (modules: readonly string[]): string => `
  kernel=$(ls /lib/modules)
  rm -rf /lab/stage && mkdir -p /lab/stage/lib/modules/$kernel && cd /lab/stage/lib/modules/$kernel
  for module in ${modules.join(' ')}; do modprobe -S $kernel --show-depends $module; done | sed -n 's/^insmod //p' | sort -u |
    while read -r file; do case $file in *.xz) xz -dc $file > $(basename $file .xz);; *) cp $file .;; esac; done
  depmod -b /lab/stage $kernel`;

function filesBelow(folder: string, prefix = ''): CpioEntry[] {
  return readdirSync(join(folder, prefix), { withFileTypes: true }).flatMap((entry) => {
    const path = join(prefix, entry.name);
    if (entry.isDirectory()) return filesBelow(folder, path);
    return [{ path, mode: S_IFREG | 0o644, data: readFileSync(join(folder, path)) }];
  });
}

const script = (path: string, file: string): CpioEntry => ({
  path,
  mode: S_IFREG | 0o755,
  data: readFileSync(join(labFolder, file)),
});

const emptyFolders = ['proc', 'sys', 'dev', 'new', 'lower', 'tmp'];

async function initramfs(
  name: string,
  modules: readonly string[],
  scripts: readonly CpioEntry[],
): Promise<void> {
  await runInside(userland, stage(modules));
  const busybox = readFileSync(join(rootOf(userland), 'usr/bin/busybox'));
  const applets = (await runInside(userland, 'busybox --list')).trim().split('\n');
  const image = cpio([
    ...emptyFolders.map((path) => ({ path, mode: 0o040755 })),
    { path: 'bin/busybox', mode: S_IFREG | 0o755, data: busybox },
    ...applets
      .filter((applet) => applet !== 'busybox')
      .map((applet) => ({ path: `bin/${applet}`, mode: S_IFLNK | 0o777, data: Buffer.from('busybox') })),
    ...scripts,
    ...filesBelow(join(imageFolder, 'stage')),
  ]);
  writeFileSync(join(imageFolder, name), image);
}

/**
 * The compressed ELF kernel in a bzImage, without the trailing 4-byte size. @see Documentation/arch/x86/boot.rst,
 * payload_offset
 */
export function payloadOf(bzImage: Uint8Array): Uint8Array {
  const view = new DataView(bzImage.buffer, bzImage.byteOffset, bzImage.byteLength);
  const setupSectors = view.getUint8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + view.getUint32(0x248, true);
  return bzImage.subarray(start, start + view.getUint32(0x24c, true) - 4);
}

async function kernels(): Promise<void> {
  const boot = join(rootOf(userland), 'boot');
  const bzImage = join(boot, readdirSync(boot).find((name) => name.startsWith('vmlinuz-'))!);
  mkdirSync(imageFolder, { recursive: true });
  copyFileSync(bzImage, join(imageFolder, 'vmlinuz'));
  writeFileSync(join(imageFolder, 'payload'), payloadOf(readFileSync(bzImage)));
  await runInside(userland, 'cd /lab && zstd -q -d -f payload -o vmlinux && rm payload');
}

const text = (file: string): string => readFileSync(join(labFolder, file), 'utf8');

/**
 * Fetches and builds what the cache lacks. Takes almost two minutes from scratch, milliseconds if everything is there.
 */
export async function prepare(): Promise<void> {
  const land = userlandStep(userland);
  const builtFrom = (...inputs: string[]): string[] => [...land.inputs, ...inputs];
  const steps: Step[] = [
    land,
    {
      name: 'kernel-modules',
      inputs: builtFrom(text('modules.sh')),
      build: async () => void (await runInside(userland, text('modules.sh'))),
    },
    { name: 'kernels', inputs: builtFrom(), build: kernels },
    {
      name: 'initramfs-l1',
      inputs: builtFrom(text('l1/init.sh'), l1Modules.join()),
      build: () => initramfs('l1.initrd', l1Modules, [script('init', 'l1/init.sh')]),
    },
    {
      name: 'initramfs-l2',
      inputs: builtFrom(text('l2/init.sh'), text('l2/udhcpc.sh'), l2Modules.join()),
      build: () =>
        initramfs('l2.initrd', l2Modules, [script('init', 'l2/init.sh'), script('udhcpc', 'l2/udhcpc.sh')]),
    },
  ];
  await runSteps(steps);
}

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { type CpioEntry, cpio, S_IFLNK, S_IFREG } from '../devices/testing/guest/cpio.js';
import { labFolder } from './paths.js';
import { runSteps, type Step } from './step.js';
import { rootOf, runInside, type Userland, userland, userlandStep } from './userland.js';

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

/** What L2 can fetch by name, for kexec. */
export const guestFiles = {
  vmlinuz: join(imageFolder, 'vmlinuz'),
  initrd: join(imageFolder, 'l2.initrd'),
} as const;

const l1Modules = ['9pnet_virtio', '9p', 'overlay'];
const l2Modules = [
  ...[
    'e1000',
    'e1000e',
    'igb',
    'igbvf',
    '8139cp',
    'virtio_pci',
    'virtio_net',
    'virtio_blk',
    'nvme',
    'xhci-pci',
  ],
  ...['bochs', 'mdpy-fb', 'pci-pf-stub', 'testcard', 'virtio-gpu', 'virtio_input', 'evdev'],
];

/**
 * Runs inside the userland: copies modules with their dependencies, uncompressed, and builds the index for modprobe.
 * @param base folder of /lib/modules; '' is the userland's. Another kernel need not have all of the modules
 */
const stage = (modules: readonly string[], base: string): string => `
  kernel=$(ls ${base}/lib/modules)
  ${base === '' ? '' : `depmod -b ${base} $kernel`}
  rm -rf /lab/stage && mkdir -p /lab/stage/lib/modules/$kernel && cd /lab/stage/lib/modules/$kernel
  for module in ${modules.join(' ')}; do
    modprobe -S $kernel ${base === '' ? '' : `-d ${base}`} --show-depends $module ${base === '' ? '' : '|| true'}
  done | sed -n 's/^insmod //p' | sort -u |
    while read -r file; do case $file in *.xz) xz -dc $file > $(basename $file .xz);; *.zst) zstd -qdc $file > $(basename $file .zst);; *) cp $file .;; esac; done
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
  base = '',
): Promise<void> {
  await runInside(userland, stage(modules, base));
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

/**
 * C programs of L2, which L1 has in /lab, too: kexec, which busybox lacks, one that measures, one that sets modes, and one that prints
 * what is typed. Without a libc.
 */
const programs = ['kexec', 'meter', 'drm', 'events'] as const;

async function compilePrograms(): Promise<void> {
  for (const name of programs) writeFileSync(join(imageFolder, `${name}.c`), text(`l2/${name}.c`));
  const flags = '-Os -Wall -Werror -static -nostdlib -ffreestanding -fno-stack-protector';
  const compile = (name: string) => `$compiler ${flags} -o ${name} ${name}.c && rm ${name}.c`;
  await runInside(
    userland,
    `cd /lab && compiler=$(ls /usr/bin/gcc-[0-9]* | head -1) && ${programs.map(compile).join(' && ')}`,
  );
}

const text = (file: string): string => readFileSync(join(labFolder, file), 'utf8');

const l2Inputs = (): string[] => [
  ...['init.sh', 'udhcpc.sh', 'upset.sh', 'measure.sh', ...programs.map((name) => `${name}.c`)].map((file) =>
    text(`l2/${file}`),
  ),
  ...['card-driver.sh', 'l2/testcard.c'].map(text),
  l2Modules.join(),
];

async function l2Initramfs(name: string, base = ''): Promise<void> {
  await compilePrograms();
  const files = [
    script('init', 'l2/init.sh'),
    script('upset', 'l2/upset.sh'),
    script('measure', 'l2/measure.sh'),
    script('udhcpc', 'l2/udhcpc.sh'),
    ...programs.map((program) => ({
      path: `bin/${program}`,
      mode: S_IFREG | 0o755,
      data: readFileSync(join(imageFolder, program)),
    })),
  ];
  await initramfs(name, l2Modules, files, base);
}

async function compileCardDriver(): Promise<void> {
  writeFileSync(join(imageFolder, 'testcard.c'), text('l2/testcard.c'));
  await runInside(userland, text('card-driver.sh'));
}

/** Other kernels for L2, from the same mirror. */
const otherKernels = {
  /** Of the machine's release. */
  stable: { suites: ['%s'], package: 'linux-image-amd64' },
  /** For virtual machines, with few drivers. */
  cloud: { suites: ['%s', '%s-backports'], package: 'linux-image-cloud-amd64' },
  /** The newest. */
  sid: { suites: ['sid'], package: 'linux-image-amd64' },
} as const;

export type OtherKernel = keyof typeof otherKernels;

/** Paths in L1 of another kernel and its initramfs. */
export const otherInL1 = (name: OtherKernel) =>
  ({ kernel: `/lab/vmlinuz-${name}`, initrd: `/lab/l2-${name}.initrd` }) as const;

/** Fetches another kernel for L2, and builds its initramfs. Before L1 boots: it sees no files that appear later. */
export async function prepareKernel(name: OtherKernel): Promise<void> {
  const { suites, package: metapackage } = otherKernels[name];
  const land: Userland = {
    name: `kernel-${name}`,
    suites,
    packages: [metapackage],
    only: '^linux-[a-z]+-\\d',
  };
  const fetched = userlandStep(land);
  await runSteps([
    fetched,
    {
      name: `initramfs-l2-${name}`,
      inputs: [...userlandStep(userland).inputs, ...fetched.inputs, ...l2Inputs()],
      async build() {
        const [inside, modules] = [join(imageFolder, 'other'), join(rootOf(land), 'usr/lib/modules')];
        const release = readdirSync(modules)[0]!;
        // Debian's newest kernels lie beside their modules.
        const places = [join(rootOf(land), 'boot', `vmlinuz-${release}`), join(modules, release, 'vmlinuz')];
        copyFileSync(places.find(existsSync)!, join(imageFolder, `vmlinuz-${name}`));
        // Only what is inside the userland can be read there.
        mkdirSync(join(inside, 'lib'), { recursive: true });
        renameSync(modules, join(inside, 'lib/modules'));
        try {
          await l2Initramfs(`l2-${name}.initrd`, '/lab/other');
        } finally {
          renameSync(join(inside, 'lib/modules'), modules);
          rmSync(inside, { recursive: true });
        }
      },
    },
  ]);
}

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
      name: 'card-driver',
      inputs: builtFrom(text('modules.sh'), text('card-driver.sh'), text('l2/testcard.c')),
      build: compileCardDriver,
    },
    {
      name: 'initramfs-l1',
      inputs: builtFrom(text('l1/init.sh'), l1Modules.join()),
      build: () => initramfs('l1.initrd', l1Modules, [script('init', 'l1/init.sh')]),
    },
    { name: 'initramfs-l2', inputs: builtFrom(...l2Inputs()), build: () => l2Initramfs('l2.initrd') },
  ];
  await runSteps(steps);
}

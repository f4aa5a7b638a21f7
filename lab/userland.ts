import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { otherSuites, parseAptSources } from './apt-sources.js';
import { cacheFolder } from './paths.js';
import { output } from './process.js';
import { type Step, say, seconds } from './step.js';

/**
 * A small Debian in a cache folder: packages and their dependencies, unpacked but not installed. Independent of this
 * machine's packages, it serves three purposes: its compiler builds the kernel modules, its QEMU runs L1, and it is
 * L1's root file system.
 */
export interface Userland {
  readonly name: string;
  /** Suites of the machine's own mirror, the last one preferred. `%s` stands for the machine's release. */
  readonly suites: readonly string[];
  readonly packages: readonly string[];
  /** Packages to unpack, by name; by default all, with their dependencies. */
  readonly only?: string;
}

export const userland: Userland = {
  name: 'root',
  suites: ['%s', '%s-backports'],
  packages: [
    // L1's kernel, and the tools to build modules for it
    ...['linux-image-amd64', 'linux-headers-amd64', 'linux-source', 'make', 'xz-utils', 'zstd'],
    ...['qemu-system-x86', 'ipxe-qemu'],
    // L1's programs; both initramfs images use busybox too
    ...[
      'busybox-static',
      'bash',
      'coreutils',
      'grep',
      'sed',
      'mount',
      'util-linux',
      'kmod',
      'iproute2',
      'pciutils',
      'passt',
    ],
  ],
};

/** sid is the first Debian suite whose QEMU has a vfio-user client. */
export const qemu11: Userland = {
  name: 'qemu11',
  suites: ['sid'],
  packages: ['qemu-system-x86', 'busybox-static', 'bash', 'coreutils'],
};

/** Folder into which a userland is unpacked. */
export const rootOf = (land: Userland): string => join(cacheFolder, land.name);

/** Command line that runs a userland's program on this machine with its own loader and libraries. */
export function programOf(land: Userland, path: string): string[] {
  const libraries = join(rootOf(land), 'usr/lib/x86_64-linux-gnu');
  return [join(libraries, 'ld-linux-x86-64.so.2'), '--library-path', libraries, join(rootOf(land), path)];
}

/**
 * Runs a shell script inside a userland, as its root, without network or access to files outside. Mounts /dev and /proc
 * in a private mount namespace.
 */
export async function runInside(land: Userland, script: string): Promise<string> {
  const enter =
    'cd "$0" && mkdir -p dev proc && mount --rbind /dev dev && mount --rbind /proc proc &&' +
    ' exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/ LC_ALL=C /bin/bash -euo pipefail -c "$1"';
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  // A PID namespace of its own: if this process is killed, the script's children must not go on building.
  const apart = ['unshare', ...user, '--mount', '--pid', '--fork', '--kill-child'];
  return output([...apart, 'sh', '-c', enter, rootOf(land), script]);
}

/** Package sources of suites from this machine's own mirror. @param suites as {@link Userland.suites} */
export function machineSources(suites: readonly string[]): { text: string; suites: string[] } {
  const files = ['/etc/apt/sources.list'];
  const folder = '/etc/apt/sources.list.d';
  if (existsSync(folder)) files.push(...readdirSync(folder).map((name) => join(folder, name)));
  const sources = files
    .filter((file) => /\.(list|sources)$/.test(file) && existsSync(file))
    .flatMap((file) => parseAptSources(basename(file), readFileSync(file, 'utf8')));
  const codename = /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown';
  const names = suites.map((suite) => suite.replace('%s', codename));
  return { text: otherSuites(sources, codename, names), suites: names };
}

/** apt with its own lists, archives and (empty) dpkg status: the machine's are not touched. */
function privateApt(folder: string, sources: string): string[] {
  for (const path of ['lists/partial', 'archives/partial', 'state']) {
    mkdirSync(join(folder, path), { recursive: true });
  }
  writeFileSync(join(folder, 'lab.sources'), sources);
  writeFileSync(join(folder, 'status'), '');
  const options = {
    'Dir::Etc::SourceList': join(folder, 'lab.sources'),
    'Dir::Etc::SourceParts': '/dev/null',
    'Dir::Etc::PreferencesParts': '/dev/null',
    'Dir::State': join(folder, 'state'),
    'Dir::State::status': join(folder, 'status'),
    'Dir::State::Lists': join(folder, 'lists'),
    'Dir::Cache::Archives': join(folder, 'archives'),
    'Dir::Cache::pkgcache': '',
    'Dir::Cache::srcpkgcache': '',
    'Acquire::Languages': 'none',
    'APT::Sandbox::User': '', // its folders belong to the user who runs the lab
  };
  return ['apt-get', '-q', ...Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])];
}

const bytesIn = (folder: string): number =>
  readdirSync(folder).reduce(
    (sum, name) => sum + (statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0),
    0,
  );

const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`;

async function download(land: Userland, folder: string): Promise<string[]> {
  const { text, suites } = machineSources(land.suites);
  const apt = privateApt(folder, text);
  const start = performance.now();
  await output([...apt, 'update']);
  say(`  package lists of ${suites.join(', ')} in ${seconds(start)}`);
  const install = ['-t', suites.at(-1)!, '--no-install-recommends', '-y', 'install', ...land.packages];
  const rows = (await output([...apt, '--print-uris', ...install])).matchAll(/^'[^']+' (\S+) (\d+)/gm);
  const wanted = [...rows]
    .map(([, file, size]) => ({ file: file!, bytes: Number(size) }))
    .filter(({ file }) => new RegExp(land.only ?? '').test(file));
  const total = wanted.reduce((sum, { bytes }) => sum + bytes, 0);
  say(`  downloading ${wanted.length} packages, ${megabytes(total)}`);
  const archives = join(folder, 'archives');
  const progress = setInterval(() => {
    say(`  ${megabytes(bytesIn(archives) + bytesIn(join(archives, 'partial')))} of ${megabytes(total)}`);
  }, 5000);
  try {
    const names = wanted.map(({ file }) => file.split('_')[0]!);
    if (land.only === undefined) await output([...apt, '--download-only', ...install]);
    else await output([...apt, '-t', suites.at(-1)!, 'download', ...names], { cwd: archives });
  } finally {
    clearInterval(progress);
  }
  say(`  downloaded in ${seconds(start)}`);
  return wanted.map(({ file }) => join(archives, file));
}

async function unpack(packages: readonly string[], root: string): Promise<void> {
  mkdirSync(root, { recursive: true });
  // Debian's merged /usr is set up by a package's script, and scripts do not run here.
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
    mkdirSync(join(root, 'usr', name), { recursive: true });
    symlinkSync(`usr/${name}`, join(root, name));
  }
  for (const name of ['dev', 'proc', 'sys', 'run', 'tmp', 'root', 'mnt'])
    mkdirSync(join(root, name), { recursive: true });
  const queue = [...packages];
  const worker = async (): Promise<void> => {
    for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
      const skip = '--exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale';
      const extract = `dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --keep-directory-symlink --no-same-owner ${skip}`;
      await output(['bash', '-o', 'pipefail', '-c', extract, file, root]);
    }
  };
  await Promise.all([worker(), worker()]);
}

/** Does what maintainer scripts would have set up, as far as the lab needs it; busybox replaces missing programs. */
const settle = `
  ln -sf bash /usr/bin/sh
  for applet in $(busybox --list); do [ -e "/usr/bin/$applet" ] || [ -e "/usr/sbin/$applet" ] || ln -s busybox "/usr/bin/$applet"; done
  echo 'root:x:0:0:root:/root:/bin/bash' > /etc/passwd
  echo 'nobody:x:65534:65534::/:/bin/false' >> /etc/passwd
  echo 'root:x:0:' > /etc/group
  mkdir -p /lab
`;

/** Downloads and unpacks a userland. */
export function userlandStep(land: Userland): Step {
  return {
    name: `userland-${land.name}`,
    inputs: [JSON.stringify(land)],
    async build() {
      const folder = join(cacheFolder, `apt-${land.name}`);
      rmSync(folder, { recursive: true, force: true }); // apt reports only what it still has to fetch
      const packages = await download(land, folder);
      const start = performance.now();
      rmSync(rootOf(land), { recursive: true, force: true });
      await unpack(packages, rootOf(land));
      if (land.only === undefined) await runInside(land, settle);
      rmSync(folder, { recursive: true, force: true });
      say(`  unpacked in ${seconds(start)}`);
    },
  };
}

/** Debian's DPDK, with which tests drive devices from L1's userspace. */
import { renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { imageFolder } from './images.js';
import { runSteps, type Step } from './step.js';
import { rootOf, type Userland, userland, userlandStep } from './userland.js';

/** The release's libraries that dpdk-testpmd and the drivers below load, without `lib`. */
const needed = [
  ...['bsd0', 'c6', 'cap2', 'dbus-1-3', 'elf1', 'fdt1', 'gcrypt20', 'gpg-error0', 'ibverbs1', 'jansson4'],
  ...['lz4-1', 'lzma5', 'md0', 'nl-3-200', 'nl-route-3-200', 'numa1', 'pcap0.8', 'systemd0', 'zstd1'],
];

/** Its programs have libraries of their own: those of the release, where L1's own are newer. */
const land: Userland = {
  name: 'dpdk',
  suites: ['%s'],
  packages: ['dpdk-dev', 'librte-mempool-ring23', 'librte-net-pcap23', 'librte-net-virtio23'],
  only: `^(dpdk-dev|ibverbs-providers|zlib1g|librte-[^_]*23|lib(${needed.join('|')}))_`,
};

const inL1 = '/lab/dpdk/usr';
const libraries = `${inL1}/lib/x86_64-linux-gnu`;

/** Command line of dpdk-testpmd in L1, up to EAL's arguments, with the drivers of NICs and memory that tests need. */
export const testpmdInL1: readonly string[] = [
  ...[`${libraries}/ld-linux-x86-64.so.2`, '--library-path', libraries, `${inL1}/bin/dpdk-testpmd`],
  ...['mempool_ring', 'net_pcap', 'net_virtio'].flatMap((name) => [
    '-d',
    `${libraries}/librte_${name}.so.23`,
  ]),
];

/** Fetches DPDK, if the cache has none: 200 packages, 17 MB. Before L1 boots: it sees no files that appear later. */
export async function prepareDpdk(): Promise<void> {
  const fetched = userlandStep(land);
  const step: Step = {
    name: 'dpdk',
    // It lies among the images, which go with the userland.
    inputs: [...userlandStep(userland).inputs, ...fetched.inputs],
    async build() {
      const folder = join(imageFolder, 'dpdk');
      await fetched.build();
      rmSync(folder, { recursive: true, force: true });
      renameSync(rootOf(land), folder);
    },
  };
  await runSteps([step]);
}

import { basename } from 'node:path';
import { BOOT_FOLDER } from './served.js';

const SUFFIX = '.served.lab.test.ts';

const CARD = 'testcard,vectors=16,msi=8,name=card';

/** What L1 has for each `*.served.lab.test.ts`. */
const SERVED_FOR: Readonly<Record<string, readonly string[]>> = {
  'test-card': [
    CARD,
    'testcard,reset=pm,express=off,name=pm',
    'testcard,reset=af,name=af',
    // Without any reset: none of its own, and no bus of its own.
    'testcard,reset=none,port=off,name=bare',
    'testcard,port=off,name=dead',
    'testcard,fault=lying-bar,name=liar',
    'virtio-net,name=nic',
  ],
  'astray-dma': [CARD],
  // Its server captures its frames.
  dpdk: [`virtio-net,mac=52:54:00:12:34:56,pcap=${BOOT_FOLDER}/nic.pcap,name=wire`],
};

/**
 * Devices to serve for test files: as `--serve` takes them; none for those that need none.
 * @throws Error for a file that needs some, and is not known here
 */
export function servedFor(files: readonly string[]): string[] {
  const needed = files.filter((file) => file.endsWith(SUFFIX)).map((file) => basename(file, SUFFIX));
  const unknown = needed.find((name) => SERVED_FOR[name] === undefined);
  if (unknown !== undefined) throw new Error(`served-cards.ts does not say what to serve for ${unknown}`);
  return [...new Set(needed.flatMap((name) => SERVED_FOR[name] ?? []))];
}

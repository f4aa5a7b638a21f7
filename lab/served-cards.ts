import { basename } from 'node:path';
import { BOOT_FOLDER } from './served.js';

const SERVED = /\.served(\.nightly)?\.lab\.test\.ts$/;

const CARD = 'testcard,vectors=16,msi=8,name=card';
/** With 256 bytes of configuration space instead of 4096, each of which takes a user a message to read. */
const QUICK = 'testcard,reset=af,express=off,vectors=16,name=quick';

/** What L1 has for each `*.served.lab.test.ts` and `*.served.nightly.lab.test.ts`. */
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
  'card-pair': ['testcard,name=pair', 'testcard,with=pair,name=second'],
  'astray-dma': [CARD],
  'failing-calls': [QUICK],
  'card-vmms': [
    QUICK,
    'testcard,reset=none,express=off,port=off,name=plain',
    'testcard,reset=af,express=off,port=off,name=dying',
  ],
  // Its server captures its frames.
  dpdk: [`virtio-net,mac=52:54:00:12:34:56,pcap=${BOOT_FOLDER}/nic.pcap,name=wire`],
};

/**
 * Devices to serve for test files: as `--serve` takes them; none for those that need none.
 * @throws Error for a file that needs some, and is not known here
 */
export function servedFor(files: readonly string[]): string[] {
  const needed = files.filter((file) => SERVED.test(file)).map((file) => basename(file).replace(SERVED, ''));
  const unknown = needed.find((name) => SERVED_FOR[name] === undefined);
  if (unknown !== undefined) throw new Error(`served-cards.ts does not say what to serve for ${unknown}`);
  return [...new Set(needed.flatMap((name) => SERVED_FOR[name] ?? []))];
}

import { fileChecksum } from './file-server.js';

/** Checks that L2's init supports, in execution order. @see lab/l2/init.sh */
export type L2Check =
  | 'dhcp'
  | 'ping'
  | 'fetch'
  | 'offloads'
  | 'queues'
  | 'disk'
  | 'tty'
  | 'fb'
  | 'picture'
  | 'console'
  | 'screens'
  | 'input'
  | 'rom'
  | 'card'
  | 'driven'
  | 'pause'
  | 'vfs'
  | 'interrupts'
  | 'unplug'
  | 'upset'
  | 'hotplug'
  | 'traffic'
  | 'blocks'
  | 'hold'
  | 'shell'
  | 'crash'
  | 'kexec'
  | 'restart';

/** What `driven` finds of a test card that works. @see lab/l2/testcard.c */
export const DRIVEN: readonly string[] = ['clean', 'registers', 'interrupts', 'copy', 'fill'].map(
  (step) => `driven.${step}`,
);

export interface L2Options {
  readonly checks: readonly L2Check[];
  /** URL for `fetch`: LAB_URL in L1's environment. */
  readonly url?: string;
  /** For `kexec`: the checks of the kernel that it boots. */
  readonly afterKexec?: readonly L2Check[];
  /** Size of the file; 4 MiB by default. */
  readonly fetchBytes?: number;
  /** Additional kernel parameters, such as `pci=nomsi`. */
  readonly parameters?: readonly string[];
}

/** The kernel command line that makes L2 run the checks, print to ttyS0 and power off. */
export function l2CommandLine({
  checks,
  url,
  afterKexec = [],
  fetchBytes = 4 << 20,
  parameters = [],
}: L2Options): string {
  const fetch =
    url === undefined ? [] : [`lab.url=${url}/${fetchBytes}`, `lab.md5=${fileChecksum(fetchBytes)}`];
  return [
    ...[
      'console=ttyS0',
      'quiet',
      'panic=-1',
      'nokaslr',
      'mitigations=off',
      'nowatchdog',
      'random.trust_cpu=on',
    ],
    ...[`lab.checks=${checks.join(',')}`, `lab.then=${afterKexec.join(',')}`, ...fetch, ...parameters],
  ].join(' ');
}

/** Parses results such as `dhcp.eth0` from L2's output. A result printed twice is ok only if both are. */
export function parseL2Results(output: string): Map<string, boolean> {
  const results = new Map<string, boolean>();
  for (const [, name, word] of output.matchAll(/^L2-RESULT (\S+) (ok|failed)\r?$/gm)) {
    results.set(name!, (results.get(name!) ?? true) && word === 'ok');
  }
  return results;
}

/** Seconds from the start of L2's kernel to its first program; undefined if it did not start. */
export function l2UserspaceSeconds(output: string): number | undefined {
  const match = /^L2-USERSPACE ([\d.]+)/m.exec(output);
  return match ? Number(match[1]) : undefined;
}

import { fileChecksum } from './file-server.js';

/** What L2's init can do, in the order asked for. @see lab/l2/init.sh */
export type L2Check =
  | 'dhcp'
  | 'ping'
  | 'fetch'
  | 'disk'
  | 'tty'
  | 'fb'
  | 'picture'
  | 'interrupts'
  | 'unplug'
  | 'hold'
  | 'crash'
  | 'restart';

export interface L2Options {
  readonly checks: readonly L2Check[];
  /** Where `fetch` gets its file: LAB_URL in L1's environment. */
  readonly url?: string;
  /** Size of that file; 4 MiB if not given. */
  readonly fetchBytes?: number;
  /** More kernel parameters, such as `pci=nomsi`. */
  readonly parameters?: readonly string[];
}

/** The kernel command line that makes L2 run some checks, print to ttyS0 and power off. */
export function l2CommandLine({ checks, url, fetchBytes = 4 << 20, parameters = [] }: L2Options): string {
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
    ...[`lab.checks=${checks.join(',')}`, ...fetch, ...parameters],
  ].join(' ');
}

/** Results by name, `dhcp.eth0` for example, from what L2 printed. A result said twice holds only if both are ok. */
export function parseL2Results(output: string): Map<string, boolean> {
  const results = new Map<string, boolean>();
  for (const [, name, word] of output.matchAll(/^L2-RESULT (\S+) (ok|failed)\r?$/gm)) {
    results.set(name!, (results.get(name!) ?? true) && word === 'ok');
  }
  return results;
}

/** Seconds from the start of L2's kernel to its first program, if it came so far. */
export function l2UserspaceSeconds(output: string): number | undefined {
  const match = /^L2-USERSPACE ([\d.]+)/m.exec(output);
  return match ? Number(match[1]) : undefined;
}

/** A Linux guest's virtio-net device whose packets the kernel moves (vhost-net): the file arrives, and none of it passes this process. */
import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runLoudly } from './command-line.js';
import { inL1 } from './images.js';
import { type L2Check, l2CommandLine, parseL2Results } from './l2.js';
import { startCommand } from './running-guest.js';

const { LAB_E1000E: NIC = '', LAB_URL: url = '' } = process.env;
const BYTES = 16 << 20;
const TIMEOUT = 300_000;
const SOCKET = '/run/vhost.sock';

/** Bytes that the kernel has given to the guest's end of the tap. */
const givenToGuest = (): number =>
  Number(readFileSync('/sys/class/net/tap0/statistics/tx_bytes', 'latin1').trim());

interface Fetched {
  readonly output: string;
  readonly results: ReadonlyMap<string, boolean>;
  /** The guest's, MiB/s. */
  readonly rate: number;
  /** The report's line of the device. */
  readonly counters: string;
  /** By the tap's own counter. */
  readonly tapBytes: number;
}

/** Boots L2 with the device, which fetches a file. */
function fetchBy(
  device: string,
  parameters: readonly string[] = [],
  args: readonly string[] = [],
  checks: readonly L2Check[] = ['dhcp', 'fetch', 'offloads', 'interrupts'],
): Fetched {
  const line = l2CommandLine({ checks, url, fetchBytes: BYTES, parameters });
  const guest = ['--kernel', inL1.kernel, '--initrd', inL1.initrd, '--memory', '256M', '--no-reboot'];
  const before = givenToGuest();
  const { output, error, status } = runLoudly([...args, ...guest, '--device', device, '--append', line]);
  const text = output.replaceAll('guest | ', '');
  expect(status, `${text}\n${error}`).toBe(0);
  const [, bytes, from, to] = /L2-FETCHED \S+ (\d+) bytes, ([\d.]+) to ([\d.]+) s/.exec(text) ?? [];
  const rate = Number(bytes) / 2 ** 20 / (Number(to) - Number(from));
  const [, counters = ''] = /^ {2}device {2,}.*: (.*)$/m.exec(text) ?? [];
  const fetched = { output: text, results: parseL2Results(text), rate, counters };
  console.log(`${device} ${parameters}: ${rate.toFixed(1)} MiB/s; ${counters}`);
  return { ...fetched, tapBytes: givenToGuest() - before };
}

const OK = new Map([
  ['dhcp.eth0', true],
  ['fetch.eth0', true],
  ['offloads.eth0', true],
]);

describe.skipIf(NIC === '')('virtio-net over vhost-net', () => {
  beforeAll(() => {
    execFileSync('modprobe', ['vhost_net']);
    execFileSync('tap-up', [NIC]);
  });
  afterAll(() => void execFileSync('tap-down', [NIC]));

  test('fetches a file that this process does not see, by MSI-X', { timeout: TIMEOUT }, () => {
    const { output, results, counters, tapBytes } = fetchBy('virtio-net,net=vhost:tap0');
    expect(results).toEqual(OK);
    expect(output).toContain('net=vhost:tap0: the kernel moves its packets (vhost-net)');
    expect(counters).toBe('vhostQueues 2');
    expect(tapBytes).toBeGreaterThan(BYTES);
    expect(output).toMatch(/virtio\d-input/);
  });

  test('the same by a tap, which this process serves', { timeout: TIMEOUT }, () => {
    const { results, counters } = fetchBy('virtio-net,net=tap:tap0');
    expect(results).toEqual(OK);
    expect(counters).toMatch(/rxPackets [1-9]/);
    expect(counters).not.toMatch(/vhostQueues/);
  });

  test('by INTx, this process raises interrupts and sees no packet', { timeout: TIMEOUT }, () => {
    const { results, counters, tapBytes } = fetchBy('virtio-net,net=vhost:tap0', ['pci=nomsi']);
    expect(results).toEqual(OK);
    expect(counters).toMatch(/^interrupts [\d,]+, vhostQueues 2$/);
    expect(tapBytes).toBeGreaterThan(BYTES);
  });

  test('in a sandbox, which refuses calls of another kind', { timeout: TIMEOUT }, () => {
    const { results, counters } = fetchBy('virtio-net,net=vhost:tap0', [], ['--sandbox']);
    expect(results).toEqual(OK);
    expect(counters).toBe('vhostQueues 2');
  });

  test('served by vfio-user, with the client’s memory', { timeout: TIMEOUT }, async () => {
    const server = startCommand(['serve', 'virtio-net,net=vhost:tap0', '--socket', SOCKET]);
    try {
      await server.says('serves it at');
      const { results, tapBytes } = fetchBy(`vfio-user:${SOCKET}`);
      expect(results).toEqual(OK);
      expect(tapBytes).toBeGreaterThan(BYTES);
      expect(server.output()).toContain('the kernel moves its packets (vhost-net)');
      expect(server.output()).not.toContain('in place of vhost-net');
    } finally {
      server.child.kill();
      await server.ended;
    }
  });

  test.each([
    ['a tap', 'tap', /rxPackets [1-9]/],
    ['vhost-net', 'vhost', /^vhostQueues 4$/],
  ] as const)('two queue pairs of %s, one for each vCPU', { timeout: TIMEOUT }, (_what, net, says) => {
    execFileSync('ip', ['tuntap', 'add', 'tap1', 'mode', 'tap', 'multi_queue']);
    try {
      execFileSync('ip', ['link', 'set', 'tap1', 'master', 'br0', 'up']);
      const checks = ['dhcp', 'queues', 'fetch'] as const;
      const { results, counters } = fetchBy(
        `virtio-net,net=${net}:tap1,queues=2`,
        [],
        ['--cpus', '2'],
        checks,
      );
      expect(results).toEqual(new Map(checks.map((check) => [`${check}.eth0`, true])));
      expect(counters).toMatch(says);
    } finally {
      execFileSync('ip', ['link', 'delete', 'tap1']);
    }
  });

  test('without /dev/vhost-net the packets are this process’s, with a reason', { timeout: TIMEOUT }, () => {
    renameSync('/dev/vhost-net', '/dev/vhost-away');
    try {
      const { output, results, counters } = fetchBy('virtio-net,net=vhost:tap0');
      expect(results).toEqual(OK);
      expect(output).toMatch(
        /this process moves its packets, as vhost-net cannot: open on .*: ENOENT; load its/,
      );
      expect(counters).toMatch(/rxPackets [1-9]/);
    } finally {
      renameSync('/dev/vhost-away', '/dev/vhost-net');
    }
  });
});

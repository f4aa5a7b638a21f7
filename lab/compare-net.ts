import type { Contest, Figures } from './contest.js';
import type { GuestL1 } from './guest-lab.js';
import { bootCommand, type Vmm } from './guests.js';
import { l2CommandLine } from './l2.js';
import { mebibytesPerSecond, medianOf, parseReadings, perSecond, type Reading } from './meter.js';

const TIMEOUT_MS = 180_000;

const rows = {
  down: 'TCP to the guest, MiB/s',
  up: 'TCP from the guest, MiB/s',
  echo: 'UDP round trips/s of 64 bytes, one under way',
  echoes: 'UDP round trips/s of 64 bytes, 32 under way',
  exits: 'exits to user space per 1,000 packets',
} as const;

const exitsPerThousand = ({ amount, exits }: Reading): number => (exits * 1000) / (2 * amount);

const side = (name: string, vmm: Vmm, device: string, qemu: string) => ({
  name,
  async measure(lab: () => Promise<GuestL1>): Promise<Figures<keyof typeof rows>> {
    const { l1 } = await lab();
    const boot = bootCommand(vmm, 'group', l2CommandLine({ checks: ['traffic'] }), { qemu });
    const command = `[ -e /sys/class/net/tap0 ] || tap-alone; devices='${device}'; ${boot}`;
    const { output, status } = await l1.run(command, { timeoutMs: TIMEOUT_MS });
    if (status !== 0) throw new Error(`${name} ended with ${status}\n${output}`);
    const readings = parseReadings(output);
    return {
      down: medianOf(readings, 'down ', mebibytesPerSecond),
      up: medianOf(readings, 'up ', mebibytesPerSecond),
      echo: medianOf(readings, 'echo 1 ', perSecond),
      echoes: medianOf(readings, 'echo 32 ', perSecond),
      exits: medianOf(readings, 'echo 32 ', exitsPerThousand),
    };
  },
});

const ours = (backend: string) => side(`tsvisor ${backend}`, 'tsvisor', `virtio-net,net=${backend}:tap0`, '');

const theirs = (backend: string, vhost: 'on' | 'off') => {
  const netdev = `tap,id=net,ifname=tap0,script=no,downscript=no,vhost=${vhost}`;
  return side(
    `QEMU ${backend}`,
    'qemu',
    '',
    `-netdev ${netdev} -device virtio-net-pci,netdev=net,disable-legacy=on`,
  );
};

/** virtio-net over a TAP whose other end is L1 itself. */
export const net: Contest = {
  name: 'net',
  sides: [ours('tap'), theirs('tap', 'off'), ours('vhost'), theirs('vhost', 'on')],
  pairs: [
    ['tsvisor tap', 'QEMU tap'],
    ['tsvisor vhost', 'QEMU vhost'],
  ],
  rows,
};

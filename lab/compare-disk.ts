import type { Contest, Figures } from './contest.js';
import type { GuestL1 } from './guest-lab.js';
import { bootCommand, type Vmm } from './guests.js';
import { l2CommandLine } from './l2.js';
import { mebibytesPerSecond, medianOf, parseReadings, type Reading } from './meter.js';

const TIMEOUT_MS = 180_000;
const FILE = '/dev/shm/disk';
const SMALL = 4096;

const rows = {
  read: 'read in order, 1 MiB at a time, MiB/s',
  write: 'write in order, 1 MiB at a time, MiB/s',
  readAnywhere: '4 KiB reads/s anywhere, one under way',
  writeAnywhere: '4 KiB writes/s anywhere, one under way',
  reads: '4 KiB reads/s anywhere, 8 under way',
  writes: '4 KiB writes/s anywhere, 8 under way',
} as const;

const blocksPerSecond = ({ amount, us }: Reading): number => amount / SMALL / (us / 1e6);

const side = (name: string, vmm: Vmm, device: string, qemu: string) => ({
  name,
  async measure(lab: () => Promise<GuestL1>): Promise<Figures<keyof typeof rows>> {
    const { l1 } = await lab();
    const boot = bootCommand(vmm, 'group', l2CommandLine({ checks: ['blocks'] }), { qemu });
    const command = `[ -e ${FILE} ] || head -c 64M /dev/urandom > ${FILE}; devices='${device}'; ${boot}`;
    const { output, status } = await l1.run(command, { timeoutMs: TIMEOUT_MS });
    if (status !== 0) throw new Error(`${name} ended with ${status}\n${output}`);
    const readings = parseReadings(output);
    const small = (what: string, depth: number) => {
      const words = new RegExp(`^${what} /dev/vda ${SMALL} \\d+ ${depth} `);
      return medianOf(
        readings.filter((reading) => words.test(reading.what)),
        what,
        blocksPerSecond,
      );
    };
    return {
      read: medianOf(readings, 'read /dev/vda 1048576 ', mebibytesPerSecond),
      write: medianOf(readings, 'write /dev/vda 1048576 ', mebibytesPerSecond),
      readAnywhere: small('read', 1),
      writeAnywhere: small('write', 1),
      reads: small('read', 8),
      writes: small('write', 8),
    };
  },
});

/** virtio-blk over a raw file in L1's memory, past the guest's page cache. */
export const disk: Contest = {
  name: 'disk',
  sides: [
    side('tsvisor', 'tsvisor', `virtio-blk,file=${FILE}`, ''),
    side(
      'QEMU q35',
      'qemu',
      '',
      `-drive if=none,id=disk,format=raw,file=${FILE},cache=writeback,aio=threads -device virtio-blk-pci,drive=disk,disable-legacy=on`,
    ),
  ],
  pairs: [['tsvisor', 'QEMU q35']],
  rows,
};

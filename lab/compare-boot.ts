import { parseBootTimes } from './boot-times.js';
import type { Contest, Figures } from './contest.js';
import type { GuestL1 } from './guest-lab.js';
import { bootCommand, type Vmm } from './guests.js';
import { l2CommandLine } from './l2.js';

const TIMEOUT_MS = 120_000;

const rows = {
  opened: 'start of the program to its first VFIO group, s',
  attached: 'from there to the guest’s first instruction, s',
  guest: 'from there to the guest’s first program, s',
  all: 'start of the program to the guest’s first program, s',
  resident: 'peak memory, the guest’s 256 MiB in it, MiB',
} as const;

const side = (name: string, vmm: Vmm) => ({
  name,
  async measure(lab: () => Promise<GuestL1>): Promise<Figures<keyof typeof rows>> {
    const { l1 } = await lab();
    const boot = bootCommand(vmm, 'group', l2CommandLine({ checks: [] }));
    const command = `devices=$LAB_E1000E; vfio-bind $devices; boot-times ${boot}`;
    const { output } = await l1.run(command, { timeoutMs: TIMEOUT_MS });
    return { ...parseBootTimes(output) };
  },
});

/** The phases of a boot with a NIC of L1. */
export const boot: Contest = {
  name: 'boot',
  sides: [side('tsvisor', 'tsvisor'), side('QEMU q35', 'qemu')],
  pairs: [['tsvisor', 'QEMU q35']],
  rows,
};

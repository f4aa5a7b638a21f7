import { parseAttachTimes } from './attach-times.js';
import type { Contest, Figures } from './contest.js';
import type { GuestL1 } from './guest-lab.js';
import { type BootOptions, bootCommand, type Vmm } from './guests.js';
import { l2CommandLine, parseL2Results } from './l2.js';

const FETCH_BYTES = 32 << 20;
const TIMEOUT_MS = 120_000;
const SMALL_MIB = 256;
const LARGE_MIB = 1024;

const rows = {
  userspace: 'start of the program to the guest’s first program, s',
  attach: `open of the group to the last call on the device before the guest runs, ${SMALL_MIB} MiB, s`,
  mapSmall: `DMA map of ${SMALL_MIB} MiB, s`,
  mapLarge: `DMA map of ${LARGE_MIB} MiB, s`,
  fetch: `${FETCH_BYTES >> 20} MiB fetched over the NIC, MiB/s`,
  resident: `resident memory, the guest’s ${SMALL_MIB} MiB in it, MiB`,
} as const;

/** Bash that runs a VMM and records its peak memory. */
const watched = (boot: string): string => `
  ( exec ${boot} ) & vmm=$!
  while [ -d /proc/$vmm ]; do grep VmHWM /proc/$vmm/status > /run/now 2>/dev/null && mv /run/now /run/most; sleep 0.3; done
  wait $vmm; cat /run/most`;

async function attachTimes({ l1 }: GuestL1, vmm: Vmm, options: BootOptions) {
  const boot = bootCommand(vmm, 'group', l2CommandLine({ checks: [] }), options);
  const { output } = await l1.run(`devices=$LAB_E1000E; attach-times ${boot}`, { timeoutMs: TIMEOUT_MS });
  return parseAttachTimes(output);
}

async function fetchFile({ l1, url }: GuestL1, vmm: Vmm, options: BootOptions) {
  const line = l2CommandLine({ checks: ['dhcp', 'fetch'], url, fetchBytes: FETCH_BYTES });
  const start = performance.now();
  let userspaceAt = Number.NaN;
  let seen = '';
  const boot = watched(bootCommand(vmm, 'group', line, { ...options, memory: SMALL_MIB }));
  const { output } = await l1.run(`devices=$LAB_E1000E; ${boot}`, {
    timeoutMs: TIMEOUT_MS,
    onOutput: (bytes) => {
      seen += Buffer.from(bytes).toString('latin1');
      if (Number.isNaN(userspaceAt) && seen.includes('L2-USERSPACE')) userspaceAt = performance.now();
    },
  });
  if (!parseL2Results(output).get('fetch.eth0'))
    throw new Error(`${vmm}: L2 did not fetch its file\n${output}`);
  const [, bytes, from, to] = /L2-FETCHED \S+ (\d+) bytes, ([\d.]+) to ([\d.]+) s/.exec(output) ?? [];
  const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(output) ?? [];
  return {
    userspace: (userspaceAt - start) / 1000,
    fetch: Number(bytes) / 2 ** 20 / (Number(to) - Number(from)),
    resident: Number(kilobytes) / 1024,
  };
}

const side = (name: string, vmm: Vmm, options: BootOptions = {}) => ({
  name,
  async measure(start: () => Promise<GuestL1>): Promise<Figures<keyof typeof rows>> {
    const lab = await start();
    const bound = await lab.l1.run('vfio-bind $LAB_E1000E');
    if (bound.status !== 0) throw new Error(bound.output);
    const small = await attachTimes(lab, vmm, { ...options, memory: SMALL_MIB });
    const large = await attachTimes(lab, vmm, { ...options, memory: LARGE_MIB });
    const fetched = await fetchFile(lab, vmm, options);
    return { ...fetched, attach: small.attach, mapSmall: small.map, mapLarge: large.map };
  },
});

/** A NIC of L1, assigned to L2. */
export const passthrough: Contest = {
  name: 'nic',
  sides: [
    side('tsvisor', 'tsvisor'),
    side('QEMU q35', 'qemu'),
    side('QEMU microvm', 'qemu', { machine: 'microvm,pcie=on,rtc=on' }),
  ],
  pairs: [
    ['tsvisor', 'QEMU q35'],
    ['tsvisor', 'QEMU microvm'],
  ],
  rows,
};

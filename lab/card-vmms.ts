/**
 * A test card with a fault, passed through by tsvisor and by Debian's QEMU in the same L1: what a person is told, and what the
 * guest's driver finds. docs/test-card-vmms.md has the table.
 */
import type { Vmm } from './guests.js';
import { DRIVEN, parseL2Results } from './l2.js';

/** What a run of a VMM has shown. */
export interface VmmAnswer {
  /** Its messages, each once, without hints, times and addresses of the process; empty for none. */
  readonly says: string;
  /** What the guest's driver has found. */
  readonly guest: string;
}

/** A fault, and when the card gets it. */
export interface CardCase {
  readonly name: string;
  /** Name of a served card. @see served-cards.ts */
  readonly card: 'quick' | 'plain' | 'dying';
  /** Faults before the VMM starts. */
  readonly fault?: string;
  /** Faults once the guest is up, before its driver is loaded. */
  readonly later?: string;
  /** The last user has left something in it. */
  readonly isUsed?: true;
  /** It is reset, and so gets what a fault does of a reset, before the VMM starts; the kernel does not reset it any more. */
  readonly isReset?: true;
  readonly answers: Readonly<Record<Vmm, VmmAnswer>>;
}

const WORKS = 'works';
const NOT_STARTED = 'does not run';
const healthy = { says: '', guest: WORKS };
/** The card answers all-ones. */
const silent = {
  tsvisor: { says: 'read on configuration space of 00:03.0 CARD: EIO', guest: NOT_STARTED },
  qemu: {
    says: "hw/pci/pci.c:1803: pci_irq_handler: Assertion `0 <= irq_num && irq_num < PCI_NUM_PINS' failed.",
    guest: NOT_STARTED,
  },
};

export const CARD_CASES: readonly CardCase[] = [
  { name: 'none', card: 'quick', answers: { tsvisor: healthy, qemu: healthy } },
  {
    name: '`reset-fails`, and the last user has left something in it',
    card: 'quick',
    fault: 'reset-fails',
    isUsed: true,
    answers: { tsvisor: { says: '', guest: 'fails: clean' }, qemu: { says: '', guest: 'fails: clean' } },
  },
  {
    name: '`reset-hangs:3000`',
    card: 'quick',
    fault: 'reset-hangs:3000',
    answers: {
      tsvisor: { says: '00:03.0 CARD: its reset took N s: the device may be failing', guest: WORKS },
      qemu: healthy,
    },
  },
  {
    name: '`stuck-in-d3`',
    card: 'plain',
    fault: 'stuck-in-d3',
    answers: {
      tsvisor: {
        says: '00:03.0 CARD: write of power state D0 on configuration space of 00:03.0 CARD: EIO',
        guest: 'fails: clean, registers',
      },
      qemu: {
        says: [
          'vfio: Unable to power on device, stuck in D3',
          'vfio: Cannot reset device CARD, no available reset mechanism.',
          'warning: vfio_container_dma_map(0xN, 0xfebe1000, 0xf000, 0xN) = -14 (Bad address)',
          'CARD: PCI peer-to-peer transactions on BARs are not supported.',
          'vfio: Error reading device ROM: Input/output error',
        ].join('; '),
        guest: 'no driver',
      },
    },
  },
  {
    name: '`dead-after-reset`, and a reset',
    card: 'dying',
    fault: 'dead-after-reset',
    isReset: true,
    answers: silent,
  },
  { name: '`removed` before the start', card: 'plain', fault: 'removed', answers: silent },
  {
    name: '`removed` while the guest runs',
    card: 'plain',
    later: 'removed',
    answers: {
      tsvisor: { says: '', guest: 'fails: clean, registers' },
      qemu: {
        says: 'vfio: Cannot reset device CARD, no available reset mechanism.',
        guest: 'fails: registers',
      },
    },
  },
  {
    name: '`lose-interrupts:1` while the guest runs',
    card: 'quick',
    later: 'lose-interrupts:1',
    answers: {
      tsvisor: { says: '', guest: 'fails: interrupts' },
      qemu: { says: '', guest: 'fails: interrupts' },
    },
  },
];

/** @param address the card's in L1 */
export function answerOf(address: string, { output, error }: { output: string; error: string }): VmmAnswer {
  const lines = error
    .replaceAll(address, 'CARD')
    .replaceAll(/\b\d+\.\d s\b/g, 'N s')
    .replaceAll(/0x[0-9a-f]{9,}/g, '0xN')
    .split(/\r?\n/)
    .filter((line) => line !== '' && !line.startsWith('  hint:'))
    .map((line) => line.replace(/^ *[\d.]+ ms {2}|^tsvisor: |^qemu-system-x86_64: (-device \S+: )?/, ''));
  const says = [...new Set(lines)].join('; ');
  const results = parseL2Results(output);
  const failed = DRIVEN.filter((name) => results.get(name) === false).map((name) => name.split('.')[1]);
  const missing = DRIVEN.filter((name) => !results.has(name));
  if (!output.includes('L2-USERSPACE')) return { says, guest: NOT_STARTED };
  if (failed.length > 0) return { says, guest: `fails: ${failed.join(', ')}` };
  return { says, guest: missing.length === 0 ? WORKS : 'no driver' };
}

const cell = (text: string): string => (text === '' ? 'nothing' : text.replaceAll('|', '\\|'));

/** The cases and their answers, for docs/test-card-vmms.md. */
export function cardTable(): string {
  const rows = CARD_CASES.map(({ name, answers: { tsvisor, qemu } }) => [
    name,
    ...[tsvisor, qemu].flatMap(({ says, guest }) => [cell(says), guest]),
  ]);
  return [
    ['fault', 'tsvisor says', 'its guest', 'QEMU says', 'its guest'],
    ['---', '---', '---', '---', '---'],
    ...rows,
  ]
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n');
}

/** tsvisor beside Debian's QEMU, with the same card, faults and guest. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { REG_SCRATCH } from '../devices/testcard/spec.js';
import { answerOf, CARD_CASES, type CardCase, type VmmAnswer } from './card-vmms.js';
import { bootCommand, type Vmm } from './guests.js';
import { HostCard, served, setResetMethod } from './host-card.js';
import { l2CommandLine } from './l2.js';

const ADDRESSES = {
  quick: process.env.LAB_QUICK ?? '',
  plain: process.env.LAB_PLAIN ?? '',
  dying: process.env.LAB_DYING ?? '',
};
const LIMIT_MS = 100_000;
const HOOK_MS = 60_000;

/** Boots L2 with the card, and gives it the later fault when L2 says that it is up. */
async function boot(vmm: Vmm, address: string, name: string, later: string | undefined): Promise<VmmAnswer> {
  const line = l2CommandLine({ checks: [...(later === undefined ? [] : (['pause'] as const)), 'driven'] });
  const command = `devices=${address}; ${bootCommand(vmm, 'group', line, { isHeard: true })}`;
  const child = spawn('timeout', [`${LIMIT_MS / 1000}`, 'bash', '-c', command], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [output, error] = ['', ''];
  child.stdout.on('data', (bytes) => {
    const wasPaused = output.includes('L2-PAUSED');
    output += String(bytes);
    if (later !== undefined && !wasPaused && output.includes('L2-PAUSED')) served(name, 'fault', later);
  });
  child.stderr.on('data', (bytes) => {
    error += String(bytes);
  });
  await once(child, 'close');
  return answerOf(address, { output, error });
}

/** A function that the kernel cannot reset stays as it is, whatever it then answers. */
function resetAlone(address: string): void {
  execFileSync('setpci', ['-s', address, 'CAP_AF+4.b=1']);
  setResetMethod(address, '');
}

function prepare({ card, fault, isUsed, isReset }: CardCase): void {
  const address = ADDRESSES[card];
  {
    using user = isUsed ? new HostCard(address, 'group') : undefined;
    if (fault !== undefined) served(card, 'fault', fault);
    user?.set(REG_SCRATCH, 7);
  }
  if (isReset) resetAlone(address);
}

describe.skipIf(ADDRESSES.dying === '')('a card with the fault', () => {
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', Object.values(ADDRESSES));
  }, HOOK_MS);
  afterAll(() =>
    execFileSync(
      'vfio-unbind',
      Object.values(ADDRESSES).filter((each) => existsSync(`/sys/bus/pci/devices/${each}`)),
    ),
  );
  afterEach(() => {
    for (const [name, address] of Object.entries(ADDRESSES)) {
      served(name, 'fault', 'none');
      if (name !== 'plain') setResetMethod(address, 'default');
      execFileSync('vfio-unbind', [address]);
      execFileSync('vfio-bind', [address]);
    }
  }, HOOK_MS);

  for (const each of CARD_CASES)
    test.each(['tsvisor', 'qemu'] as const)(
      `${each.name}: %s`,
      { timeout: LIMIT_MS + 20_000 },
      async (vmm) => {
        prepare(each);
        const answer = await boot(vmm, ADDRESSES[each.card], each.card, each.later);
        console.log(`ANSWER ${each.name}, ${vmm}: ${JSON.stringify(answer)}`);
        expect(answer).toEqual(each.answers[vmm]);
      },
    );
});

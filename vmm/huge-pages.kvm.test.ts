import { readFileSync, writeFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { expect, onTestFinished, test } from 'vitest';
import { NIC, runMachine, tsvisor } from './testing/machines.js';

const POOL = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';
const PAGES = 4;

/** Sets pages aside until the test ends. Returns why it cannot. */
function setAside(): string | undefined {
  try {
    const before = Number(readFileSync(POOL, 'utf8'));
    writeFileSync(POOL, `${before + PAGES}`);
    onTestFinished(() => writeFileSync(POOL, `${before}`));
    const made = Number(readFileSync(POOL, 'utf8')) - before;
    return made < PAGES ? `the host could set aside ${made} of ${PAGES}` : undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

test('a guest runs in huge pages, its NIC’s DMA included', async (context) => {
  const problem = setAside();
  context.skip(problem !== undefined, problem);
  const { report, serial } = await runMachine({ memory: '8M', hugePages: '2M', devices: [NIC] });
  expect(report.outcome, serial).toEqual({ kind: 'verdict', status: 0 });
});

test('with too few, run ends before the guest begins, and says what to do', () => {
  const pages = Math.floor(totalmem() / 2 ** 21); // no host has set aside all of its memory
  const { stderr, status } = tsvisor(['run', '--memory', `${2 * pages}M,hugepages=on`]);
  expect(stderr).toMatch(
    new RegExp(
      `^tsvisor: mmap on memfd guest-ram: ENOMEM\n  hint: ${pages} huge pages of 2 MiB are needed, and \\d+ are free: as root, `,
    ),
  );
  expect(status).toBe(69);
});

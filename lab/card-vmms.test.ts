import { expect, test } from 'vitest';
import { expectDocTable } from '../sys/testing/doc-table.js';
import { answerOf, cardTable } from './card-vmms.js';
import { DRIVEN } from './l2.js';

const A = '0000:01:00.0';
const driven = (failed = '') =>
  `L2-USERSPACE 2\r\n${DRIVEN.map((name) => `L2-RESULT ${name} ${name === failed ? 'failed' : 'ok'}\r\n`).join('')}`;

test('what a VMM says is its messages without addresses, times and hints', () => {
  const said = (error: string) => answerOf(A, { output: '', error }).says;
  expect(said(`   12.3 ms  00:03.0 ${A}: it is so: EIO\n  hint: do that\n`)).toBe(
    '00:03.0 CARD: it is so: EIO',
  );
  expect(said(`   12.3 ms  00:03.0 ${A}: its reset took 3.2 s: why\n`)).toBe(
    '00:03.0 CARD: its reset took N s: why',
  );
  expect(said('qemu-system-x86_64: map(0x560e3b1f4000, 0xfebe1000)\nqemu-system-x86_64: x\n'.repeat(2))).toBe(
    'map(0xN, 0xfebe1000); x',
  );
  expect(said(`tsvisor: read on ${A}: EIO\n  hint: x\n`)).toBe('read on CARD: EIO');
  expect(said(`qemu-system-x86_64: -device vfio-pci,host=${A}: vfio ${A}: failed\n`)).toBe(
    'vfio CARD: failed',
  );
});

test('a guest whose driver has not spoken, or has found a failure, or never ran, does not count as one that works', () => {
  const guest = (output: string) => answerOf(A, { output, error: '' }).guest;
  expect(guest(driven())).toBe('works');
  expect(guest(driven('driven.copy'))).toBe('fails: copy');
  expect(guest('L2-USERSPACE 2\n')).toBe('no driver');
  expect(guest(driven().replace(/L2-RESULT driven.fill.*/, ''))).toBe('no driver');
  expect(guest('')).toBe('does not run');
});

test('docs/test-card-vmms.md has the table of these cases (TSVISOR_UPDATE_CARD_VMMS=1 writes it)', () => {
  expectDocTable('test-card-vmms.md', cardTable(), 'TSVISOR_UPDATE_CARD_VMMS');
});

import { expect, test } from 'vitest';
import { iow } from '../sys/ioctl.js';
import { struct } from '../sys/struct.js';
import { checkHeaders } from '../sys/testing/header-check.js';
import { caps } from './caps.js';
import * as uapi from './uapi.js';
import { constantsSince } from './uapi-since.js';
import * as vcpu from './uapi-vcpu.js';

test('every structure, request, constant and capability is what the C compiler makes of it', ({ skip }) => {
  const check = checkHeaders({
    headers: ['linux/kvm.h', 'asm/kvm.h'],
    tables: [uapi, vcpu, caps],
    constantsSince,
  });
  if (check.unavailable !== undefined) skip(check.unavailable);
  for (const row of check.newer) console.info(`not compared: ${row}`);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThan(400);
});

test('a wrong row is reported with both values', ({ skip }) => {
  const Wrong = struct('struct kvm_irq_level', 'linux/kvm.h', { level: 'u32', irq: 'u64' });
  const KVM_IRQ_LINE = iow('KVM_IRQ_LINE', uapi.KVMIO, 0x61, Wrong);
  const check = checkHeaders({ headers: ['linux/kvm.h'], tables: [{ Wrong, KVM_IRQ_LINE, KVMIO: 0xaf }] });
  if (check.unavailable !== undefined) skip(check.unavailable);
  expect(check.differences).toEqual([
    'sizeof(struct kvm_irq_level): 16 here, 8 in the header',
    'offsetof(struct kvm_irq_level, level): 0 here, 4 in the header',
    'offsetof(struct kvm_irq_level, irq): 8 here, 0 in the header',
    'sizeof(((struct kvm_irq_level *)0)->irq): 8 here, 4 in the header',
    `KVM_IRQ_LINE: ${KVM_IRQ_LINE.number} here, ${uapi.KVM_IRQ_LINE.number} in the header`,
    'KVMIO: 175 here, 174 in the header',
  ]);
});

test('a name missing from the header is an error, unless it is newer than the header', ({ skip }) => {
  const tables = [{ KVM_NO_SUCH_THING: 1 }];
  const newer = checkHeaders({
    headers: ['linux/kvm.h'],
    tables,
    constantsSince: { KVM_NO_SUCH_THING: '99.0' },
  });
  if (newer.unavailable !== undefined) skip(newer.unavailable);
  expect(newer).toMatchObject({ compared: 0, differences: [] });
  expect(newer.newer).toEqual([expect.stringMatching(/^KVM_NO_SUCH_THING needs headers of 99.0/)]);
  expect(() => checkHeaders({ headers: ['linux/kvm.h'], tables })).toThrowError(/KVM_NO_SUCH_THING/);
});

test('without the header installed, the check is unavailable rather than failed', () => {
  const check = checkHeaders({ headers: ['linux/no-such-header.h'], tables: [] });
  expect(check).toMatchObject({ compared: 0, differences: [], unavailable: expect.any(String) });
});

/** What a machine does with a card that has faults. */
import { expect, test } from 'vitest';
import { tsvisor } from './testing/machines.js';

const run = (options: string) =>
  tsvisor(['run', '--device', `testcard${options}`, '--append', 'halt-test', '--log-level', 'info']);

test.each([
  ['', /BAR0 64 KiB 32-bit: 4 doorbell ranges, 56 KiB mapped, 8 KiB trapped/],
  [',vectors=2048,msi=32,express=off', /went through D3hot only/],
  [',fault=reset-hangs:1500', /its reset took 1\.\d s: the device may be failing/],
  [',reset=none', /not reset: it keeps the state of its last user/],
  [',fault=bad-capabilities', /00:03\.0 testcard/],
  [',fault=lying-bar', /BAR4/],
  [',fail=mmap:ENOMEM', /BAR2 1 MiB 64-bit prefetchable: 1 MiB trapped/],
])('a machine runs with testcard%s', (options, text) => {
  const { status, stdout, stderr } = run(options);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(text);
});

test.each([
  [',fault=removed', /VFIO_DEVICE_RESET on testcard: EIO|it reads all-ones/],
  [',fail=openDevice:ENODEV', /VFIO_GROUP_GET_DEVICE_FD on testcard: ENODEV/],
  [',fail=reset:EIO', /VFIO_DEVICE_RESET on testcard: EIO/],
  [
    ',fault=reset-fails',
    /VFIO_DEVICE_RESET on testcard: EIO\n {2}hint: the card has the fault reset-fails; it still has the state of its last user; no reset of its slot: neither its slot nor its bus can be reset; power-cycle it/,
  ],
  [',fail=setIrqs:ENOSPC', /VFIO_DEVICE_SET_IRQS on testcard: ENOSPC/],
  [',fail=getRegionInfo:EIO:3', /VFIO_DEVICE_GET_REGION_INFO on testcard: EIO/],
  [',fail=getIrqInfo:EIO', /VFIO_DEVICE_GET_IRQ_INFO on testcard: EIO/],
  [',fail=read:EIO', /configuration space of 00:03\.0 testcard/],
])('a machine does not start with testcard%s, and says which call failed', (options, text) => {
  const { status, stderr } = run(options);
  expect(status).toBe(69);
  expect(stderr).toMatch(text);
  expect(stderr).not.toMatch(/ at .*\.js:/);
});

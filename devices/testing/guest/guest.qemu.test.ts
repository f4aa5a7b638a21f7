import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { VfioDeviceOps } from '../../../vfio/driver.js';
import { PciRegions } from '../../mdev/pci-regions.js';
import { RegionOps } from '../../mdev/region-ops.js';
import { ConfigSpace } from '../../pci/config-space.js';
import { PCI_DEVICE_ID, PCI_VENDOR_ID } from '../../pci/pci-regs.js';
import { RegisterWatch } from '../registers/register-watch.js';
import { bootGuest } from './guest.js';
import type { GuestError } from './guest-error.js';
import { findBusybox } from './programs.js';

const STATE = 0x40;

/** A function with one register, in configuration space, that never changes. */
class Dull extends RegionOps implements VfioDeviceOps {
  readonly name = 'dull';
  protected readonly regions = new PciRegions('dull', { config: { create }, bars: [] });
  openDevice(): void {
    this.regions.resetConfig();
  }
  closeDevice(): void {}
  getIrqInfo(index: number) {
    return { index, flags: 0, count: 0 };
  }
  setIrqs(): void {}
}

function create(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, 0x1234);
  space.set(PCI_DEVICE_ID, 2, 0xd011);
  space.set(STATE, 4, 0x5a);
  return space;
}

const failure = (promise: Promise<unknown>): Promise<GuestError> =>
  promise.then(
    () => expect.unreachable('the command ended'),
    (error: GuestError) => error,
  );

test('a guest that hangs is described by the register that it reads in vain', {
  timeout: 90_000,
}, async () => {
  const registers = [{ name: 'STATE', region: 7, offset: STATE, reset: 0x5a }];
  const watch = new RegisterWatch({ registers, spin: { reads: 10, ms: 60_000 } });
  await using guest = await bootGuest({
    devices: [watch.around(new Dull())],
    files: { 'etc/motto': 'dull' },
  });
  expect(watch.resetMismatches()).toEqual([]);
  expect(await guest.run('cat /etc/motto /sys/bus/pci/devices/0000:00:10.0/device; exit 3')).toEqual({
    status: 3,
    output: 'dull0xd011\n',
  });

  const poll = 'echo polls; while :; do cat /sys/bus/pci/devices/0000:00:10.0/config > /dev/null; done';
  const hung = await failure(guest.run(poll, { timeoutMs: 5000 }));
  expect(hung).toMatchObject({ name: 'GuestError', reason: 'timeout' });
  expect(hung.spins).toEqual([expect.stringMatching(/^dull: STATE reads 0x5a, \d+ times in /)]);
  expect(hung.message).toContain('polls');
});

test('a panic is told from an end', { timeout: 90_000 }, async () => {
  await using guest = await bootGuest();
  const error = await failure(guest.run('echo c > /proc/sysrq-trigger'));
  expect(error.reason).toBe('panicked');
  expect(error.message).toMatch(/: the guest panicked: sysrq triggered crash\n[\s\S]+ console, last lines:/);
});

test("a guest's own init is heard by its console", { timeout: 90_000 }, async () => {
  const busybox = readFileSync(findBusybox(undefined));
  await using guest = await bootGuest({
    init: '#!/bin/sh\necho "alone with $(echo /*)"\n/bin/poweroff -f\n',
    files: { 'bin/sh': busybox, 'bin/poweroff': busybox },
  });
  await guest.says('alone with /bin /dev /init');
  await expect(guest.run('true')).rejects.toThrow('this guest takes no commands');
  expect(await guest.ended).toEqual({ status: 0, signal: null });
});

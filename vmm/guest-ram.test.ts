import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Mapping } from '../sys/mapping.js';
import { GuestRam } from './guest-ram.js';

const MIB = 2 ** 20;

/** KiB of a mapping that are in memory. */
function residentKib(address: number): number {
  const smaps = readFileSync('/proc/self/smaps', 'utf8');
  const at = smaps.indexOf(`\n${address.toString(16)}-`);
  return at < 0 ? Number.NaN : Number(/^Rss:\s+(\d+) kB$/m.exec(smaps.slice(at + 1))?.[1]);
}

test('memory is made ahead, all of it, while this thread goes on', async () => {
  const bytes = 80 * MIB + 8192;
  await using ram = GuestRam.create(BigInt(bytes), false);
  ram.populate();
  const { address } = ram.handle;
  while (residentKib(address) < bytes / 1024) await sleep(5);
  expect(residentKib(address)).toBe(bytes / 1024);
});

test('memory that is not asked for ahead is not made', async () => {
  await using ram = GuestRam.create(BigInt(64 * MIB), false);
  expect(residentKib(ram.handle.address)).toBe(0);
});

test('guest memory starts where a huge page can', async () => {
  await using ram = GuestRam.create(BigInt(5 * MIB), false);
  expect(ram.handle.address % (2 * MIB)).toBe(0);
});

test('only shared memory has a descriptor, and what is written behind it is seen', async () => {
  await using own = GuestRam.create(BigInt(MIB), false);
  expect(own.handle.fd).toBeUndefined();
  await using shared = GuestRam.create(BigInt(MIB), true);
  using borrowed = Mapping.borrow(shared.handle);
  borrowed.view.slice(MIB - 2, 1).set([0xa5]);
  expect(readFileSync(`/proc/self/fd/${shared.handle.fd}`)[MIB - 2]).toBe(0xa5);
});

test('disposing it in the middle of its making leaves nothing mapped', async () => {
  const { address } = await (async () => {
    await using ram = GuestRam.create(BigInt(512 * MIB), false);
    ram.populate();
    return ram.handle;
  })();
  expect(residentKib(address)).toBeNaN();
});

/** For lab tests: a Linux guest that uses each NIC that comes until it is gone. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { DeviceConfigInput } from '../vmm/config.js';
import { held, MemoryBalance, startTalking, type TalkingMachine } from '../vmm/testing/talking-machine.js';
import type { DetachOptions, VirtualMachine } from '../vmm/virtual-machine.js';
import { inL1 } from './images.js';
import { l2CommandLine } from './l2.js';

const { LAB_URL: url = '' } = process.env;

export interface Guest extends TalkingMachine {
  readonly memory: MemoryBalance;
  /** Resolves when a NIC has got no address. */
  readonly isMute: Promise<void>;
}

/** Boots L2 without a device. It uses each NIC that comes until that is gone. */
export async function startGuest(running: VirtualMachine[], ...parameters: string[]): Promise<Guest> {
  const memory = new MemoryBalance();
  const cmdline = l2CommandLine({ checks: ['hotplug'], url, fetchBytes: 16 << 20, parameters });
  const guest = startTalking(
    { kernel: inL1.kernel, initrd: inL1.initrd, memory: '256M', cmdline, trace: ['memory'] },
    { trace: (_channel, text) => memory.hear(text) },
  );
  running.push(guest.vm);
  await guest.says('L2-WAITS');
  const isMute = guest.says('L2-MUTE');
  isMute.catch(() => {}); // the end of the machine
  return { ...guest, memory, isMute };
}

/** Far more than a NIC needs, also where both CPUs are busy. */
const PATIENCE_MS = 90_000;

/**
 * Resolves once the guest has said the text `times` times. Rejects with what it has said instead if a NIC got no address,
 * or nothing happens for long: the test's own limit would not show that.
 */
export async function awaitGuest(guest: Guest, text: string, times = 1): Promise<void> {
  const abort = new AbortController();
  const { signal } = abort;
  const failed = (why: string) => (): never => {
    const host = execFileSync('sh', ['-c', 'dmesg | tail -n 8'], { encoding: 'utf8' });
    throw new Error(`${why} instead of '${text}' (${times}):\n${guest.serial().slice(-6000)}\nL1: ${host}`);
  };
  try {
    const silent = sleep(PATIENCE_MS, undefined, { signal }).then(failed('nothing'));
    const mute = guest.isMute.then(failed('a NIC without an address'));
    for (const promise of [silent, mute]) promise.catch(() => {});
    await Promise.race([guest.says(text, times), silent, mute]);
  } finally {
    abort.abort();
  }
}

/** As Linux names it: `L2-CAME 0000:00:03.0`. */
export const came = (slot: number) => `L2-CAME ${bdf(slot)}`;
export const gone = (slot: number) => `L2-GONE ${bdf(slot)}`;
const bdf = (slot: number) => `0000:00:${slot.toString(16).padStart(2, '0')}.0`;

/** What the kernel has locked and pinned for this process. */
export function pinnedKib() {
  const status = readFileSync('/proc/self/status', 'utf8');
  const kib = (name: string) => Number(status.match(`${name}:\\s+(\\d+)`)?.[1]);
  return { locked: kib('VmLck'), pinned: kib('VmPin') };
}

/** That, and the guest's memory slots and regions. */
export const memoryOf = ({ memory }: Guest) => ({ ...memory.now, ...pinnedKib() });

export const state = (guest: Guest) => ({ ...held(), ...memoryOf(guest) });

/** DMA that the IOMMU has refused: a device was left running. */
export const refusedDma = () =>
  execFileSync('dmesg', { encoding: 'utf8' })
    .split('\n')
    .filter((line) => /DMAR:.*fault/.test(line));

/** Closing in the kernel may end a little later than the call. */
export async function expectState(guest: Guest, before: ReturnType<typeof state>): Promise<void> {
  for (let tries = 0; tries < 50 && JSON.stringify(state(guest)) !== JSON.stringify(before); tries++)
    await sleep(100);
  expectRunning(guest);
  expect(state(guest)).toEqual(before);
}

/** @throws Error with what a machine that has ended said last */
function expectRunning({ vm, serial }: Guest): void {
  const { state, outcome, failure } = vm.info();
  if (state !== 'ended') return;
  throw new Error(`the machine has ended: ${failure ?? JSON.stringify(outcome)}\n${serial().slice(-6000)}`);
}

/** Attaches devices, and returns their slots once Linux has an address on each of them. */
export async function attachUsed(
  guest: Guest,
  devices: readonly DeviceConfigInput[],
): Promise<readonly number[]> {
  const before = guest.serial();
  const slots = await guest.vm.attach(devices);
  for (const slot of slots) await awaitGuest(guest, came(slot), timesIn(before, came(slot)) + 1);
  return slots;
}

/** Detaches a device, and returns once Linux has noticed. */
export async function detachUsed(guest: Guest, slot: number, options: DetachOptions = {}): Promise<void> {
  const before = guest.serial();
  await guest.vm.detach(slot, options);
  await awaitGuest(guest, gone(slot), timesIn(before, gone(slot)) + 1);
}

/** The first attach by each way opens what the machine keeps: kvm-vfio's device, the event thread's modules. */
export async function warmUp(guest: Guest, devices: readonly DeviceConfigInput[]): Promise<void> {
  for (const device of devices)
    for (const slot of await attachUsed(guest, [device])) await detachUsed(guest, slot);
}

const timesIn = (text: string, part: string): number => text.split(part).length - 1;

/** Attaches and detaches a NIC in turn, each time once Linux fetches over it. */
export async function comeAndGo(
  guest: Guest,
  devices: readonly DeviceConfigInput[],
  rounds: number,
): Promise<void> {
  let before: ReturnType<typeof state> | undefined;
  for (let round = 1; round <= rounds; round++) {
    expect(await attachUsed(guest, [devices[round % devices.length] as DeviceConfigInput])).toEqual([3]);
    expect((await guest.vm.counters()).devices).toHaveLength(1);
    await detachUsed(guest, 3);
    expect(refusedDma(), `round ${round}`).toEqual([]);
    if (round < 2 * devices.length)
      before = state(guest); // each way has opened what it keeps: Node's own descriptors
    else if (before !== undefined) await expectState(guest, before);
  }
  expect(guest.serial()).not.toMatch(/L2-MUTE|Oops|BUG|WARNING/);
}

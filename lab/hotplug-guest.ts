/** For lab tests: a Linux guest that uses each NIC that comes until it is gone. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { DeviceConfigInput } from '../vmm/config.js';
import { held, MemoryBalance, startTalking, type TalkingMachine } from '../vmm/testing/talking-machine.js';
import type { VirtualMachine } from '../vmm/virtual-machine.js';
import { inL1 } from './images.js';
import { l2CommandLine } from './l2.js';

const { LAB_URL: url = '' } = process.env;

export interface Guest extends TalkingMachine {
  readonly memory: MemoryBalance;
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
  return { ...guest, memory };
}

/** As Linux names it: `L2-CAME 0000:00:03.0`. */
export const came = (slot: number) => `L2-CAME ${bdf(slot)}`;
export const gone = (slot: number) => `L2-GONE ${bdf(slot)}`;
const bdf = (slot: number) => `0000:00:${slot.toString(16).padStart(2, '0')}.0`;

/** The guest's memory slots and regions, and what the kernel has locked and pinned for this process, in KiB. */
export function memoryOf({ memory }: Guest) {
  const status = readFileSync('/proc/self/status', 'utf8');
  const kib = (name: string) => Number(status.match(`${name}:\\s+(\\d+)`)?.[1]);
  return { ...memory.now, locked: kib('VmLck'), pinned: kib('VmPin') };
}

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
  expect(state(guest)).toEqual(before);
}

/** Attaches and detaches a NIC in turn, each time once Linux fetches over it. */
export async function comeAndGo(
  guest: Guest,
  devices: readonly DeviceConfigInput[],
  rounds: number,
): Promise<void> {
  let before: ReturnType<typeof state> | undefined;
  for (let round = 1; round <= rounds; round++) {
    const slot = await guest.vm.attach(devices[round % devices.length] as DeviceConfigInput);
    expect(slot).toBe(3);
    await guest.says(came(slot), round);
    expect((await guest.vm.counters()).devices).toHaveLength(1);
    await guest.vm.detach(slot);
    await guest.says(gone(slot), round);
    expect(refusedDma(), `round ${round}`).toEqual([]);
    if (round < 2 * devices.length)
      before = state(guest); // each way has opened what it keeps: Node's own descriptors
    else if (before !== undefined) await expectState(guest, before);
  }
  expect(guest.serial()).not.toMatch(/L2-MUTE|Oops|BUG|WARNING/);
}

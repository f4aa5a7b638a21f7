/** Machines that move while they work. TSVISOR_MOVES says how often. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { NIC } from '../testing/machines.js';
import { SWEEPING, SWEPT_PAGES, sweepingGuest } from '../testing/sweeping-guest.js';
import { startTalking, type TalkingMachine } from '../testing/talking-machine.js';
import { VirtualMachine } from '../virtual-machine.js';
import type { MoveOptions, MoveProgress, MoveResult } from './source.js';

const TIMES = Number(process.env.TSVISOR_MOVES ?? 5);
/** What the guest exchanges while it moves; on a KVM in software, 2000 are enough. */
const DATAGRAMS = Number(process.env.TSVISOR_MOVE_DATAGRAMS ?? 40_000 * TIMES);
const PHASE_TRAFFIC = 0x50;
/** A machine in software takes its time. */
const PATIENCE_MS = 20_000;
const PATIENT: MoveOptions = { downtimeMs: 60_000, timeoutMs: 60_000 };

let folder: string;
let address: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'moved-'));
  address = `unix:${join(folder, 'socket')}`;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Moves a machine to another one in this process. Both promises settle. */
async function move(from: VirtualMachine, options: MoveOptions = PATIENT, changes = {}) {
  let text = '';
  const waiting = new Set<() => void>();
  let listen: () => void = () => {};
  const listening = new Promise<void>((resolve) => {
    listen = resolve;
  });
  const observer = {
    serial: (bytes: Uint8Array) => {
      text += Buffer.from(bytes).toString('latin1');
      for (const check of waiting) check();
    },
  };
  const controller = new AbortController();
  const received = VirtualMachine.receive(address, changes, observer, {
    listening: listen,
    signal: controller.signal,
    timeoutMs: 60_000,
  });
  received.catch(() => {});
  await listening;
  const sent = from.migrateTo(address, options);
  const results = await Promise.allSettled([sent, received]);
  const says = (wanted: string) =>
    new Promise<void>((resolve, reject) => {
      const check = () => text.includes(wanted) && resolve();
      waiting.add(check);
      check();
      if (results[1].status === 'fulfilled')
        results[1].value.finished.then(
          ({ outcome }) => reject(new Error(`${JSON.stringify(outcome)}: ${text}`)),
          reject,
        );
    });
  return { sent: results[0], received: results[1], says, serial: () => text };
}

async function moved(
  from: VirtualMachine,
  options?: MoveOptions,
  changes = {},
): Promise<MoveResult & { vm: VirtualMachine; says(text: string): Promise<void> }> {
  const { sent, received, says } = await move(from, options, changes);
  if (sent.status === 'rejected') throw sent.reason;
  if (received.status === 'rejected') throw received.reason;
  return { ...sent.value, vm: received.value, says };
}

/** A guest that has pinged, looks at its bus every 10 ms, and ends when its NIC is gone. */
const waiting = (): TalkingMachine =>
  startTalking({ memory: '16M', devices: [NIC, { address: 'mtty-2' }], cmdline: 'pings=2 hotplug=1' });
const WAITS = 'works, 2/2 replies';

/** Ends the guest's wait, wherever it is. */
async function release(vm: VirtualMachine, says: (text: string) => Promise<void>): Promise<void> {
  await vm.detach(3, { force: true });
  await says('slot 3 is empty');
  expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
}

/** It takes long: the nightly run has it. */
const isAsked = process.env.TSVISOR_MOVES !== undefined;
test.skipIf(!isAsked).each([1, 2])(
  `${DATAGRAMS} datagrams of a guest are each echoed, though it moves all the time, at least ${TIMES} times, %i vCPU`,
  async (vcpus) => {
    let startsTraffic: () => void = () => {};
    const traffic = new Promise<void>((resolve) => {
      startsTraffic = resolve;
    });
    const first = startTalking(
      {
        ...{ memory: '16M', vcpus, devices: [NIC, { address: 'mtty-2' }] },
        cmdline: `pings=1 udp=${DATAGRAMS},64,1`,
      },
      { phase: ({ code }) => code === PHASE_TRAFFIC && startsTraffic() },
    );
    const machines = [first.vm];
    let serial = first.serial;
    try {
      await traffic;
      for (let vm = first.vm; ; ) {
        const { sent, received, serial: next } = await move(vm);
        if (sent.status === 'rejected' || received.status === 'rejected') {
          // Its guest was done before the move was.
          await Promise.race([vm.finished, sleep(PATIENCE_MS)]);
          if (vm.state !== 'ended' || sent.status !== 'rejected')
            throw (sent as PromiseRejectedResult).reason;
          expect((await vm.finished).outcome, serial()).toEqual({ kind: 'verdict', status: 0 });
          break;
        }
        const { downtimeMs, rounds, sentBytes, ms } = sent.value;
        console.log(
          `move ${machines.length}: ${Math.round(downtimeMs)} ms down of ${Math.round(ms)}, ${rounds} rounds, ${sentBytes >> 10} KiB`,
        );
        expect((await vm.finished).outcome).toEqual({ kind: 'moved', to: address });
        vm = received.value;
        machines.push(vm);
        serial = next;
      }
      expect(machines.length).toBeGreaterThan(TIMES);
      expect(serial()).toMatch(new RegExp(`udp: ${DATAGRAMS} of ${DATAGRAMS} datagrams`));
    } finally {
      for (const each of machines) await each[Symbol.asyncDispose]();
    }
  },
  600_000,
);

test('a move that is aborted in any round leaves the guest working here, and it can move then', async () => {
  const first = waiting();
  await using vm = first.vm;
  await first.says(WAITS);
  for (const isStopped of [false, true]) {
    const controller = new AbortController();
    const progress = (now: { readonly isStopped: boolean }) => {
      if (now.isStopped === isStopped) controller.abort(new Error('not now'));
    };
    const { sent, received } = await move(vm, { ...PATIENT, signal: controller.signal, progress });
    expect(sent.status === 'rejected' && sent.reason.message).toBe('not now');
    expect(received.status).toBe('rejected');
    expect(vm.state).toBe('running');
  }
  const there = await moved(vm);
  try {
    await release(there.vm, there.says);
  } finally {
    await there.vm[Symbol.asyncDispose]();
  }
});

test.each([
  { dirtyRing: 0, vcpus: 1 },
  { dirtyRing: 1024, vcpus: 1 },
  { dirtyRing: 1024, vcpus: 2 },
])(
  'a guest that writes all the time finds each page as it was, after a move that is aborted and one that is not: %o',
  async ({ dirtyRing, vcpus }) => {
    const guest = join(folder, 'sweeping.elf');
    writeFileSync(guest, sweepingGuest());
    let starts: () => void = () => {};
    const sweeping = new Promise<void>((resolve) => {
      starts = resolve;
    });
    const config = { memory: '16M', vcpus, guest, devices: [], dirtyRing };
    await using vm = VirtualMachine.start(config, { phase: ({ code }) => code === SWEEPING && starts() });
    await sweeping;
    const controller = new AbortController();
    const progress = () => controller.abort(new Error('not now'));
    const aborted = await move(vm, { ...PATIENT, signal: controller.signal, progress });
    expect(aborted.sent.status === 'rejected' && aborted.sent.reason.message).toBe('not now');
    const there = await moved(vm, PATIENT, { dirtyRing });
    await using last = there.vm;
    await last.typeSerial(Uint8Array.of(1));
    expect((await last.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
    expect(there.sentBytes).toBeGreaterThan(2 * SWEPT_PAGES * 4096);
    const { exits } = await vm.finished;
    expect((exits['dirty-ring-full'] ?? 0) > 0).toBe(dirtyRing > 0);
  },
);

test('devices that are copied while the guest runs are there with their guest, twice', async () => {
  const card = { address: 'testcard', options: { migration: 'all', ram: '2M' } };
  const first = startTalking({
    ...{ memory: '16M', devices: [NIC, { address: 'vgpu-small' }, card], cmdline: 'pings=2 hotplug=1' },
  });
  await using vm = first.vm;
  await first.says(WAITS);
  const rounds: number[] = [];
  const progress = ({ round, isStopped }: MoveProgress) => !isStopped && rounds.push(round);
  const there = await moved(vm, { ...PATIENT, progress });
  expect((await vm.finished).outcome).toEqual({ kind: 'moved', to: address });
  expect(rounds.length).toBeGreaterThan(0);
  const back = await moved(there.vm);
  try {
    expect((await back.vm.inspectDevices()).map(({ slot }) => slot)).toEqual([3, 4, 5]);
    await release(back.vm, back.says);
  } finally {
    for (const each of [there.vm, back.vm]) await each[Symbol.asyncDispose]();
  }
});

test('a paused machine is paused where it arrives', async () => {
  const first = waiting();
  await using vm = first.vm;
  await first.says(WAITS);
  await vm.pause();
  const there = await moved(vm);
  try {
    expect(there.vm.state).toBe('paused');
    await there.vm.resume();
    await release(there.vm, there.says);
  } finally {
    await there.vm[Symbol.asyncDispose]();
  }
});

test('a target with other devices refuses, with the reason at both ends, and the guest works on', async () => {
  const first = waiting();
  await using vm = first.vm;
  await first.says(WAITS);
  const { sent, received } = await move(vm, PATIENT, { devices: [{ ...NIC, slot: 3 }] });
  const why = /section 'machine': device 00:04.0: it was saved with mtty-2, and this machine has none/;
  expect(received.status === 'rejected' && received.reason.message).toMatch(why);
  expect(sent.status === 'rejected' && sent.reason.message).toMatch(why);
  await release(vm, first.says);
});

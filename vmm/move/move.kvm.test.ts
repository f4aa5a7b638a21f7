/** Machines that move while they work. TSVISOR_MOVES says how often. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { VmConfigInput } from '../config.js';
import { NIC } from '../testing/machines.js';
import { startTalking, type TalkingMachine } from '../testing/talking-machine.js';
import { VirtualMachine } from '../virtual-machine.js';
import type { MoveOptions, MoveResult } from './source.js';

const TIMES = Number(process.env.TSVISOR_MOVES ?? 5);
/** A machine in software takes its time. */
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
): Promise<MoveResult & { vm: VirtualMachine; says(text: string): Promise<void> }> {
  const { sent, received, says } = await move(from, options);
  if (sent.status === 'rejected') throw sent.reason;
  if (received.status === 'rejected') throw received.reason;
  return { ...sent.value, vm: received.value, says };
}

const busy = (pings: number): VmConfigInput => ({
  memory: '16M',
  devices: [NIC, { address: 'mtty-2' }],
  cmdline: `pings=${pings}`,
});

test.each([1, 2])(
  `a guest that pings has all its replies, though it moves ${TIMES} times, %i vCPU`,
  async (vcpus) => {
    const pings = 30 * TIMES;
    const first: TalkingMachine = startTalking({ ...busy(pings), vcpus });
    let vm = first.vm;
    const machines = [vm];
    try {
      await first.says('ping  1:');
      let says = (text: string) => first.says(text);
      for (let i = 0; i < TIMES; i++) {
        const { downtimeMs, rounds, sentBytes, ms, ...next } = await moved(vm);
        console.log(
          `move ${i + 1}: ${Math.round(downtimeMs)} ms down of ${Math.round(ms)}, ${rounds} rounds, ${sentBytes >> 10} KiB`,
        );
        expect((await vm.finished).outcome).toEqual({ kind: 'moved', to: address });
        vm = next.vm;
        machines.push(vm);
        says = next.says;
        expect(vm.state).toBe('running');
      }
      await says(`${pings}/${pings} replies`);
      expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
    } finally {
      for (const each of machines) await each[Symbol.asyncDispose]();
    }
  },
);

test('a move that is aborted in any round leaves the guest working here, and it can move then', async () => {
  const first = startTalking(busy(60));
  await using vm = first.vm;
  await first.says('ping  1:');
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
    await there.says('60/60 replies');
    expect((await there.vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
  } finally {
    await there.vm[Symbol.asyncDispose]();
  }
});

test('a paused machine is paused where it arrives', async () => {
  const first = startTalking(busy(20));
  await using vm = first.vm;
  await first.says('ping  1:');
  await vm.pause();
  const there = await moved(vm);
  try {
    expect(there.vm.state).toBe('paused');
    await there.vm.resume();
    await there.says('20/20 replies');
  } finally {
    await there.vm[Symbol.asyncDispose]();
  }
});

test('a target with other devices refuses, with the reason at both ends, and the guest works on', async () => {
  const first = startTalking(busy(20));
  await using vm = first.vm;
  await first.says('ping  1:');
  const { sent, received } = await move(vm, PATIENT, { devices: [{ ...NIC, slot: 3 }] });
  const why = /section 'machine': device 00:04.0: it was saved with mtty-2, and this machine has none/;
  expect(received.status === 'rejected' && received.reason.message).toMatch(why);
  expect(sent.status === 'rejected' && sent.reason.message).toMatch(why);
  await first.says('20/20 replies');
});

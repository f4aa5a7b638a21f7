/** Calls on a machine while it runs, on the built-in guest. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { NIC } from './testing/machines.js';
import { VirtualMachine } from './virtual-machine.js';

/** The guest's first progress code. @see vmm/guest/abi.h */
const PHASE_ENTRY = 0x10;

/** A guest that waits for a reply that never comes: by polling, or halted until its timer. */
const WAITING = { address: 'virtio-net', options: { net: 'responder:drop=1' } } as const;

test.each([1, 2])(
  'the counters of a guest that never exits are read while it runs, %i vCPU',
  async (vcpus) => {
    await using vm = VirtualMachine.start({ devices: [WAITING], vcpus, cmdline: 'spin pings=1' });
    const { devices, exits } = await vm.counters();
    expect(devices.map(({ name }) => name)).toEqual(['00:03.0 virtio-net']);
    expect(Object.keys(devices[0]?.counters ?? {})).toContain('txPackets');
    expect(exits).toBeTypeOf('object');
    vm.stop('test');
    await vm.finished;
    await expect(vm.counters()).rejects.toMatchObject({ code: 'ESRCH' });
  },
);

test('a call on a machine that cannot start fails with the reason', async () => {
  await using vm = VirtualMachine.start({ devices: [{ address: 'warp-drive' }] });
  await expect(vm.counters()).rejects.toThrowError(/there is no device 'warp-drive'/);
});

/** Resolves once `isSo`; the test's own time limit ends the waiting. */
async function until(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo())) await sleep(20);
}

const TRAFFIC = { devices: [NIC], cmdline: 'pings=1 tcp=0x7fffffff' };

const sentBy = async (vm: VirtualMachine): Promise<number> =>
  (await vm.counters()).devices[0]?.counters.txPackets ?? 0;

/** As {@link sentBy}; undefined if a restart of the machine interrupts the call. */
const counted = (vm: VirtualMachine): Promise<number | undefined> => sentBy(vm).catch(() => undefined);

/** The number of packets that the guest has sent, once the device has sent all that it was given. */
async function settledCount(vm: VirtualMachine): Promise<number> {
  for (let [count, unchanged] = [await sentBy(vm), 0]; ; ) {
    await sleep(50); // the event thread may have to wait for a processor
    const now = await sentBy(vm);
    unchanged = now === count ? unchanged + 1 : 0;
    if (unchanged === 10) return now;
    count = now;
  }
}

test.each([1, 2])(
  'a paused guest sends nothing, and continues when it is resumed, %i vCPU',
  async (vcpus) => {
    await using vm = VirtualMachine.start({ ...TRAFFIC, vcpus });
    await until(async () => (await sentBy(vm)) > 100);
    await vm.pause();
    expect(vm.state).toBe('paused');
    await vm.pause(); // is done already
    const sent = await settledCount(vm);
    await sleep(200);
    expect(await sentBy(vm)).toBe(sent);
    await vm.resume();
    expect(vm.state).toBe('running');
    await until(async () => (await sentBy(vm)) > sent);
  },
);

test.each([1, 2])('a guest that is paused and resumed often loses nothing, %i vCPU', async (vcpus) => {
  await using vm = VirtualMachine.start({ devices: [NIC], vcpus, cmdline: 'pings=20 udp=20,500,1' });
  let times = 0;
  const pausing = (async () => {
    while (vm.state !== 'ended') {
      await vm.pause();
      await vm.resume();
      times++;
      await sleep(5); // or the guest would hardly run
    }
  })().catch(() => {});
  const { outcome } = await vm.finished;
  await pausing;
  expect(outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(times).toBeGreaterThan(5);
});

test.each([1, 2])('a paused machine can be stopped, %i vCPU', async (vcpus) => {
  await using vm = VirtualMachine.start({ ...TRAFFIC, vcpus });
  await vm.pause();
  vm.stop('test');
  expect((await vm.finished).outcome).toEqual({ kind: 'stopped', by: 'test' });
  expect(vm.state).toBe('ended');
});

test.each([1, 2])(
  'a reset starts the guest anew, and one that was paused starts paused, %i vCPU',
  async (vcpus) => {
    const phases: number[] = [];
    await using vm = VirtualMachine.start({ ...TRAFFIC, vcpus }, { phase: ({ code }) => phases.push(code) });
    await until(async () => (await sentBy(vm)) > 100);
    await vm.pause();
    const entries = () => phases.filter((code) => code === PHASE_ENTRY).length;
    expect(entries()).toBe(1);
    await vm.reset();
    await until(async () => (await counted(vm)) === 0 && vm.state === 'paused');
    expect(entries()).toBe(1);
    await vm.resume();
    await until(async () => (await sentBy(vm)) > 0);
    expect(entries()).toBe(2);
  },
);

test('a resume that comes before all vCPUs have stopped fails the pause', async () => {
  await using vm = VirtualMachine.start(TRAFFIC);
  const pausing = vm.pause().catch((error: unknown) => error);
  await vm.resume();
  expect(await pausing).toMatchObject({ code: 'ECANCELED' });
  await until(async () => (await sentBy(vm)) > 0);
});

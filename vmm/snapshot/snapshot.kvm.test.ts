/** Machines that are saved at random moments and go on elsewhere. TSVISOR_SAVED_STATES says how often, TSVISOR_SAVED_SEED when. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openFds } from '../../sys/testing/open-fds.js';
import { ApiServer } from '../api/server.js';
import type { VmConfigInput } from '../config.js';
import { CLI, NIC, tsvisor } from '../testing/machines.js';
import { startTalking, type TalkingMachine } from '../testing/talking-machine.js';
import { VirtualMachine } from '../virtual-machine.js';

const TIMES = Number(process.env.TSVISOR_SAVED_STATES ?? 5);
const CLONES = Number(process.env.TSVISOR_SAVED_CLONES ?? 20);
const SEED = Number(process.env.TSVISOR_SAVED_SEED ?? Date.now() % 1_000_000);

let folder: string;
beforeAll(() => {
  console.log(`TSVISOR_SAVED_SEED=${SEED}`);
  folder = mkdtempSync(join(tmpdir(), 'saved-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let random = SEED;
function below(most: number): number {
  random = (random * 1103515245 + 12345) % 2 ** 31;
  return Math.floor(random / 65536) % most;
}

/** Waits for a NIC: looks at configuration space and sleeps until its timer, again and again. */
const WAITING: VmConfigInput = {
  memory: '16M',
  devices: [{ address: 'mtty-2' }, { address: 'testcard' }],
  cmdline: 'hotplug=1 pings=2',
};

const restored = (from: string, changes = {}): TalkingMachine =>
  startTalking({}, {}, (_config, observer) => VirtualMachine.restore(from, changes, observer));

/** Gives the guest what it waits for. */
async function finish({ vm, says }: TalkingMachine): Promise<void> {
  const slot = await vm.attach(NIC);
  await says(`the NIC in slot ${slot} works, 2/2 replies`);
  await vm.detach(slot, { force: true });
  expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
}

test.each([1, 2])(
  `a guest that is saved and restored ${TIMES} times works to its end, %i vCPU`,
  async (vcpus) => {
    const path = join(folder, `chain-${vcpus}`);
    let machine = startTalking({ ...WAITING, vcpus });
    try {
      await machine.says('hotplug: ready');
      for (let i = 0; i < TIMES; i++) {
        await sleep(below(50));
        const saved = await machine.vm.snapshot(path);
        expect(saved.folder).toBe(path);
        expect(machine.vm.state).toBe('running');
        await machine.vm[Symbol.asyncDispose]();
        machine = restored(path);
      }
      await finish(machine);
    } finally {
      await machine.vm[Symbol.asyncDispose]();
    }
    expect(readdirSync(path).sort()).toEqual(['config.json', 'memory', 'state']);
    expect(statSync(join(path, 'memory')).size).toBe(16 << 20);
  },
);

test(`a guest that pings and draws is saved and restored ${TIMES} times, and has all replies and its picture`, async () => {
  const path = join(folder, 'busy');
  const pings = 20 * TIMES;
  const [plain, moved] = [{ picture: '' }, { picture: '' }];
  const busy: VmConfigInput = {
    memory: '16M',
    devices: [NIC, { address: 'vgpu-small' }, { address: 'mtty-2' }],
    cmdline: `pings=${pings}`,
  };
  const end = async ({ vm, says }: TalkingMachine, kept: { picture: string }): Promise<void> => {
    await says(`${pings}/${pings} replies`);
    expect((await vm.finished).outcome).toEqual({ kind: 'verdict', status: 0 });
    kept.picture = createHash('sha256')
      .update(await vm.screenshot())
      .digest('hex');
    await vm[Symbol.asyncDispose]();
  };
  await end(startTalking(busy), plain);
  let machine = startTalking(busy);
  try {
    await machine.says('ping  1:');
    for (let i = 0; i < TIMES; i++) {
      await sleep(below(50));
      await machine.vm.snapshot(path);
      await machine.vm[Symbol.asyncDispose]();
      machine = restored(path);
    }
    await end(machine, moved);
  } finally {
    await machine.vm[Symbol.asyncDispose]();
  }
  expect(moved).toEqual(plain);
});

test('a machine goes on after it was saved, and one that is paused stays so', async () => {
  const path = join(folder, 'going-on');
  const machine = startTalking(WAITING);
  await using vm = machine.vm;
  await machine.says('hotplug: ready');
  await vm.pause();
  await vm.snapshot(path);
  expect(vm.state).toBe('paused');
  await vm.resume();
  await vm.snapshot(path);
  await finish(machine);
});

test(`${CLONES} machines start from one folder at once, and share its memory`, async () => {
  const path = join(folder, 'clones');
  {
    const machine = startTalking(WAITING);
    await using vm = machine.vm;
    await machine.says('hotplug: ready');
    await vm.snapshot(path);
  }
  const clones = Array.from({ length: CLONES }, () => restored(path));
  try {
    await Promise.all(clones.map(finish));
  } finally {
    for (const { vm } of clones) await vm[Symbol.asyncDispose]();
  }
});

test('another process goes on with a machine that this one saved over its API, with a serial port of its own', async () => {
  const path = join(folder, 'elsewhere');
  {
    const machine = startTalking({ ...WAITING, vcpus: 2 });
    await using vm = machine.vm;
    await machine.says('hotplug: ready');
    const socket = join(folder, 'first');
    await using _api = await ApiServer.start(vm, socket, '1');
    const child = spawn(process.execPath, [CLI, 'ctl', socket, 'snapshot', path]);
    expect((await once(child, 'exit'))[0]).toBe(0);
  }
  const [socket, output] = [join(folder, 'second'), join(folder, 'output')];
  const args = ['run', '--restore', path, '--serial', `file:${output}`, '--api', `unix:${socket}`, '--quiet'];
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = once(child, 'exit');
  try {
    while (!existsSync(socket) && child.exitCode === null) await sleep(50);
    expect(tsvisor(['ctl', socket, 'attach', 'virtio-net,net=responder']).stdout).toMatch(/is in slot 5/);
    while (!readFileSync(output, 'latin1').includes('works, 2/2 replies') && child.exitCode === null)
      await sleep(50);
    expect(tsvisor(['ctl', socket, 'detach', '5', '--force']).status).toBe(0);
    expect((await ended)[0]).toBe(0);
  } finally {
    child.kill('SIGKILL');
  }
});

test('a device that cannot be saved leaves for the save, and is in its slot afterwards, also where it is restored', async () => {
  const path = join(folder, 'unplugged');
  const slot = 4;
  const machine = startTalking({ ...WAITING, devices: [{ address: 'mtty-2' }, { address: 'vgpu-gtt' }] });
  await using vm = machine.vm;
  await machine.says('hotplug: ready');
  await expect(vm.snapshot(path)).rejects.toThrowError(/vgpu-gtt: ENOTSUP/);
  await vm.snapshot(path, { detachUnmigratable: true });
  const addresses = ({ devices }: VirtualMachine) => devices.map((device) => [device.slot, device.address]);
  const both = [
    [3, 'mtty-2'],
    [slot, 'vgpu-gtt'],
  ];
  expect(addresses(vm)).toEqual(both);
  const clone = restored(path);
  try {
    while (clone.vm.state === 'starting') await sleep(5);
    expect(addresses(clone.vm)).toEqual(both);
    expect(await clone.vm.inspectDevices()).toHaveLength(2);
    await clone.vm.detach(slot, { force: true });
    await finish(clone);
  } finally {
    await clone.vm[Symbol.asyncDispose]();
  }
});

test('a folder that does not fit is an error with the section, and the machine is gone', async () => {
  const path = join(folder, 'clones');
  const before = openFds().length;
  const devices = [{ address: 'mtty-2', slot: 3 }];
  await using vm = VirtualMachine.restore(path, { devices });
  await expect(vm.finished).rejects.toThrowError(
    /section 'machine': device 00:04.0: it was saved with testcard/,
  );
  expect(openFds()).toHaveLength(before);
});

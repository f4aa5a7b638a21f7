import { syncBuiltinESMExports } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import workerThreads, { type WorkerOptions } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { mappedFiles, openFds, threadCount } from '../sys/testing/open-fds.js';
import { ConfigError } from './config-error.js';
import { NIC, runMachine } from './testing/machines.js';
import { VirtualMachine } from './virtual-machine.js';

test('the built-in guest pings through an assigned NIC, and no packet costs an exit', async () => {
  const { report, serial, steps } = await runMachine({ devices: [NIC] });
  expect(serial).toMatch(/10\/10 replies/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  const [begin, end] = [0x50, 0x60].map((code) => report.phases.find((phase) => phase.code === code));
  // The only exit in between is the second mark itself.
  expect((end?.exits.io ?? 0) - (begin?.exits.io ?? 0)).toBe(1);
  expect((end?.exits.mmio ?? 0) - (begin?.exits.mmio ?? 0)).toBe(0);
  const [before, after] = [begin?.devices[0]?.counters, end?.devices[0]?.counters];
  expect((after?.txPackets ?? 0) - (before?.txPackets ?? 0)).toBe(10);
  expect((after?.rxPackets ?? 0) - (before?.rxPackets ?? 0)).toBe(10);
  expect((after?.doorbells ?? 0) - (before?.doorbells ?? 0)).toBeGreaterThanOrEqual(10);
  const text = steps.join('\n');
  for (const step of [
    /group \d+ is open/,
    /type1v2/,
    /associated with the VM/,
    /DMA map 0x0-0x3ffffff/,
    /is open \(/,
  ]) {
    expect(text).toMatch(step);
  }
  expect(text.indexOf('associated')).toBeLessThan(text.indexOf('VFIO_GROUP_GET_DEVICE_FD'));
});

test('the same guest is served by INTx, level-triggered, as well', async () => {
  const { report, serial } = await runMachine({ devices: [NIC], cmdline: 'irq=intx' });
  expect(serial).toMatch(/10\/10 replies, \d+ INTx interrupts/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
});

test('a device opened by its cdev and attached to an iommufd works the same', async () => {
  const { report, steps } = await runMachine({ devices: [{ ...NIC, interface: 'iommufd' }] });
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  const text = steps.join('\n');
  expect(text).toMatch(
    /vfio0 is associated with the VM[\s\S]*VFIO_DEVICE_BIND_IOMMUFD[\s\S]*IOAS \d+\nDMA map/,
  );
});

test('a reply with one wrong byte makes the verdict a failure', async () => {
  const device = { address: 'virtio-net', options: { net: 'responder:corrupt=4' } };
  const { report, serial } = await runMachine({ devices: [device] });
  expect(serial).toMatch(/wrong payload/);
  expect(serial).toMatch(/9\/10 replies/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 1 });
});

test('UDP and TCP echoes of many packets come back whole', async () => {
  const { report, serial } = await runMachine({
    devices: [NIC],
    cmdline: 'pings=1 udp=300,1024,16 tcp=100000',
  });
  expect(serial).toMatch(/udp: 300 of 300 datagrams/);
  expect(serial).toMatch(/tcp: 100000 of 100000 bytes echoed/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
});

test('a guest with more than the hole below 4 GiB has its memory on both sides of it', async () => {
  const { report, steps } = await runMachine({ devices: [NIC], memory: '3200M', cmdline: 'pings=1' });
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(steps.join('\n')).toMatch(/DMA map 0x0-0xbfffffff[\s\S]*DMA map 0x100000000-0x107ffffff/);
});

test('two vCPUs run in threads of their own, and the guest works the same', async () => {
  const { report } = await runMachine({ devices: [NIC], vcpus: 2, cmdline: 'pings=3' });
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
});

test('a guest that never exits is stopped between two instructions', async () => {
  // Waiting by polling, for a reply that never comes: no exit for seconds.
  const device = { address: 'virtio-net', options: { net: 'responder:drop=1' } };
  for (const vcpus of [1, 2]) {
    await using vm = VirtualMachine.start({ devices: [device], vcpus, cmdline: 'spin pings=1' });
    await sleep(500);
    vm.stop('test');
    expect((await vm.finished).outcome).toEqual({ kind: 'stopped', by: 'test' });
  }
});

test('a triple fault is a crash with the instruction it came from', async () => {
  const { report } = await runMachine({ cmdline: 'crash=triple' });
  expect(report.outcome).toMatchObject({ kind: 'crashed', title: 'the guest triple-faulted' });
  expect(JSON.stringify(report.outcome)).toMatch(
    /at rip 0x0000000000 *10[0-9a-f]{4}.*instruction bytes 0f 0b/,
  );
});

test('an exception that the guest reports itself is its verdict', async () => {
  const { report, serial } = await runMachine({ cmdline: 'crash=ud2' });
  expect(serial).toMatch(/exception 6 at rip 0x10/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 5 });
});

test('a BAR outside of the windows is not shown to the guest, and the owner is told', async () => {
  const { report, steps } = await runMachine({ devices: [NIC], cmdline: 'mmio=0xe0000000,0x10000000' });
  expect(report.outcome).toEqual({ kind: 'verdict', status: 3 });
  expect(steps.join('\n')).toMatch(/guest misuse: 00:03\.0 virtio-net: .*0xe0000000.*/);
});

test('an unknown device is refused with what there is', async () => {
  const vm = VirtualMachine.start({ devices: [{ address: 'warp-drive' }] });
  const error = await vm.finished.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(ConfigError);
  expect(String(error)).toMatch(/there is no device 'warp-drive'; there are:\n.*virtio-net/);
});

test('a wrong device option names all that is wrong with it', async () => {
  const options = { net: 'pigeon', mac: 'zz', colour: 'red' };
  const vm = VirtualMachine.start({ devices: [{ address: 'virtio-net', options }] });
  const error = await vm.finished.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(ConfigError);
  expect(String(error)).toMatch(/unknown option colour.*pigeon.*mac: zz/);
});

test('a guest image that does not fit is refused with the numbers', async () => {
  const vm = VirtualMachine.start({ memory: '1M', devices: [NIC] });
  await expect(vm.finished).rejects.toThrowError(
    /needs 0x100000-0x\w+, but the guest's memory ends at 0x100000/,
  );
});

test('100 machines created and destroyed leave no descriptor, thread or mapping', async () => {
  const run = async (i: number) => {
    const { report } = await runMachine({
      devices: [NIC],
      memory: '8M',
      cmdline: i % 10 === 0 ? 'pings=1' : 'halt-test',
    });
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  };
  await run(0); // libuv's own threads start with the first
  const before = { fds: openFds(), threads: threadCount(), mapped: mappedFiles().length };
  for (let i = 0; i < 100; i++) await run(i);
  await expect.poll(threadCount, { timeout: 10_000 }).toBe(before.threads);
  expect({ fds: openFds(), mapped: mappedFiles().length }).toEqual({
    fds: before.fds,
    mapped: before.mapped,
  });
}, 180_000);

test.each(['tsvisor-event', 'tsvisor-cpu1', 'tsvisor-machine'])(
  'a host that refuses the thread %s ends the run with the reason, and no other thread is left',
  async (refused) => {
    await runMachine({ vcpus: 2 });
    const threads = threadCount();
    const { Worker } = workerThreads;
    // As RLIMIT_NPROC and pids.max do, which a privileged process is free of.
    workerThreads.Worker = class extends Worker {
      constructor(url: string | URL, options: WorkerOptions) {
        if (options.name === refused)
          throw Object.assign(new Error('EAGAIN'), { code: 'ERR_WORKER_INIT_FAILED' });
        super(url, options);
      }
    };
    syncBuiltinESMExports();
    try {
      await expect(VirtualMachine.start({ vcpus: 2 }).finished).rejects.toThrowError(
        new RegExp(`pthread_create on ${refused}: EAGAIN\\n  hint: .*ulimit -u`),
      );
    } finally {
      workerThreads.Worker = Worker;
      syncBuiltinESMExports();
    }
    await expect.poll(threadCount, { timeout: 10_000 }).toBe(threads);
  },
);
